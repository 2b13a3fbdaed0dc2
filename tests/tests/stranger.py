"""Opens a store with another implementation of Delta and compares every cell of every table, at every
version, with what was committed.

Usage: stranger.py STORE FOLDER    FOLDER has expected.json and the Arrow files that it names
"""

import json
import pathlib
import sys

import pyarrow as pa
from deltalake import DeltaTable


def difference(found: pa.Table, expected: pa.Table, key: list[str]) -> str | None:
    """The first difference between two tables, whatever the order of their rows and columns."""
    if set(found.column_names) != set(expected.column_names):
        return f"columns {sorted(set(found.column_names) ^ set(expected.column_names))} are in one alone"
    if found.num_rows != expected.num_rows:
        return f"{found.num_rows} rows instead of {expected.num_rows}"
    order = [(column, "ascending") for column in key]
    # Where a column is text or bytes, a reader may choose among several layouts of the same values.
    found = found.select(expected.column_names).cast(expected.schema).sort_by(order)
    expected = expected.sort_by(order)
    for name in expected.column_names:
        if found[name].combine_chunks() != expected[name].combine_chunks():
            pairs = zip(found[name].to_pylist(), expected[name].to_pylist(), strict=True)
            row, (is_now, was) = next((row, pair) for row, pair in enumerate(pairs) if pair[0] != pair[1])
            return f"column {name} of row {row} is {is_now!r} instead of {was!r}"
    return None


def main(store: pathlib.Path, folder: pathlib.Path) -> list[str]:
    wrong = []
    for table, said in json.loads((folder / "expected.json").read_text()).items():
        path = str(store / table)
        newest = DeltaTable(path)
        last = said["versions"][-1]["version"]
        if newest.version() != last:
            wrong.append(f"{table}: the newest version is {newest.version()} instead of {last}")
        for version in said["versions"]:
            found = DeltaTable(path, version=version["version"]).to_pyarrow_table()
            with pa.ipc.open_file(folder / version["file"]) as file:
                expected = file.read_all()
            if expected.num_rows != version["rows"]:
                wrong.append(f"{version['file']} has {expected.num_rows} rows")
            if differs := difference(found, expected, said["key"]):
                wrong.append(f"{table} at version {version['version']}: {differs}")
        for app_id, number in said["transactions"].items():
            if newest.transaction_version(app_id) != number:
                wrong.append(f"{table}: {app_id} stands at {newest.transaction_version(app_id)} instead of {number}")
    return wrong


if __name__ == "__main__":
    found = main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
    sys.exit("\n".join(found) if found else 0)
