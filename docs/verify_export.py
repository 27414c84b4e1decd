#!/usr/bin/env python3
"""Verify an export of the Gatehouse ledger without Gatehouse: SHA-256 and Ed25519 only.

    gatehouse ledger export --data DIR --out ledger.jsonl
    python3 verify_export.py ledger.jsonl PUBLIC_KEY_HEX

PUBLIC_KEY_HEX is the box's signing key, noted when the box was set up (`gatehouse ledger verify --json` shows it). Needs the
`cryptography` package. Exit code 0: the export is whole and signed by that key; 1: it is not, and where.
"""
import hashlib
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def signed(key, message, signature):
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), message.encode())
    except (InvalidSignature, ValueError):
        sys.exit(f"a signature does not verify: {message!r}")


def main(path, trusted):
    head, seq, entries, checkpoints, ended = None, None, 0, 0, False
    for number, line in enumerate(open(path, "rb"), 1):
        row = json.loads(line)
        if row["type"] == "header":
            head, seq = bytes.fromhex(row["previous"]), row["first_seq"] - 1
        elif row["type"] == "entry":
            # The entry's own bytes: between `"entry":` and the line's last `}`.
            start = line.index(b'"entry":') + len(b'"entry":')
            body = line[start : line.rindex(b"}")]
            seq += 1
            if row["seq"] != seq:
                sys.exit(f"line {number}: entry {row['seq']} where {seq} belongs")
            digest = hashlib.sha256(body).digest()
            head = hashlib.sha256(b"gatehouse ledger entry\n" + head + seq.to_bytes(8, "big") + digest).digest()
            if row["hash"] != head.hex():
                sys.exit(f"line {number}: entry {seq} is not what was chained")
            entries += 1
        elif row["type"] == "checkpoint":
            c = row["checkpoint"]
            if c["key"] != trusted:
                sys.exit(f"line {number}: signed by another key, {c['key']}")
            if c["seq"] == seq and c["head"] != head.hex():
                sys.exit(f"line {number}: the checkpoint speaks of another history")
            abandoned = ",".join(str(n) for n in c.get("abandoned", []))
            signed(c["key"], f"gatehouse ledger checkpoint 1\nseq={c['seq']}\nhead={c['head']}\nat={c['at']}\n"
                   f"counter={c['counter']}\nabandoned={abandoned}\nkey={c['key']}\n", c["signature"])
            checkpoints += 1
        elif row["type"] == "end":
            if (row["seq"], row["head"], row["key"]) != (seq, head.hex(), trusted):
                sys.exit(f"line {number}: the end does not fit")
            signed(row["key"], f"gatehouse ledger export 1\nseq={row['seq']}\nhead={row['head']}\nat={row['at']}\n"
                   f"key={row['key']}\n", row["signature"])
            ended = True
    if not ended:
        sys.exit("the export is cut: it has no signed end")
    print(f"{entries} entries, {checkpoints} checkpoints, all signed by {trusted}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
