"""Answers first-day questions about a store with the Python packages deltalake and pyarrow.

Usage: query.py STORE
"""

import sys

import pyarrow.compute as pc
from deltalake import DeltaTable


def show(title: str, table) -> None:
    print(title)
    for row in table.to_pylist():
        values = {key: f"{value:.3f}" if isinstance(value, float) else value for key, value in row.items()}
        print("  " + "  ".join(f"{key} {value}" for key, value in values.items()))


records = DeltaTable(sys.argv[1] + "/records").to_pyarrow_table()

outcomes = records.group_by("outcome").aggregate([("seq", "count")])
show("What happened to each reading?", outcomes.sort_by("outcome"))

dead = records.filter(pc.field("outcome") == "dead_letter").group_by("reason").aggregate([("seq", "count")])
show("Why were readings rejected?", dead.sort_by("reason"))

kept = records.filter(pc.field("outcome") == "kept")
kept = kept.append_column("century", pc.multiply(pc.divide(pc.year(kept["event_time"]), 100), 100))
sizes = kept.group_by("century").aggregate([("seq", "count"), ("length", "sum")])
show("How many documents and bytes of text were kept, by century of the event?", sizes.sort_by("century"))

alike = records.filter(pc.field("outcome") == "duplicate").sort_by([("jaccard", "ascending"), ("seq", "ascending")])
alike = alike.select(["external_id", "duplicate_of_seq", "jaccard"]).slice(0, 3)
show("Which dropped documents resemble their original least?", alike)

# Every version stays readable: the order of the stream is `seq`, never the order of files.
newest = kept.sort_by([("seq", "descending")]).select(["seq", "external_id", "unseen_percentile"]).slice(0, 3)
show("What are the newest documents, and how novel are they?", newest)
