"""Fetches three batches from a replay server, then the same batches again by their tickets.

Usage: client.py URL
"""

import json
import sys
import urllib.request


def post(path: str, body: dict) -> dict:
    request = urllib.request.Request(sys.argv[1] + path, data=json.dumps(body).encode())
    with urllib.request.urlopen(request) as response:
        return json.load(response)


served = []
place = {"job": "example"}  # a job at its first step
for step in range(3):
    ticket = post("/v1/tickets", place)["ticket"]
    batch = post("/v1/batches", ticket)
    served.append((ticket, batch["digest"]))
    place = batch["next"]  # the request for the next ticket
    print(f"step {step}: digest {batch['digest']}")
    for row in batch["rows"]:
        first = bytes(token for token in row["tokens"] if token < 256)[:48].decode(errors="ignore")
        kind = f"replayed from {row['buffer']}" if row["replayed"] else "new text"
        print(f"  row {row['row']}, {kind}: {first!r}")

for ticket, digest in served:
    assert post("/v1/batches", ticket)["digest"] == digest, ticket
print("the same three tickets gave the same three digests")
