"""What a copy of the ledger costs a peer in a round: bytes on the wire, by the number of peers.

    python -m bench.ledger_copy

The entries are those of a round in which every peer's work counts: the round itself and the state agreed on.
Only data that a run writes is counted; with the real structs and the encoding that a leader answers with.
"""

import tempfile
from pathlib import Path

import msgspec

from duckweed.ledger.entries import Closed, Contributed, GenesisEntry, RoundEntry, StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import Identity

PEERS = (2, 4, 10, 100, 1000)
TENSORS = (
    75  # scales in an entry: those of a Llama with 12 blocks and untied head, one for each tensor
)


def bytes_of_round(peers: int) -> int:
    """Bytes of the entries of one round, as `LedgerEntries` carries them."""
    key, digest = Identity(b"k" * 32), "a1" * 32
    everybody = list(range(peers))
    said = Contributed(20_480, 3.21987654321, digest, 1_234_567, sizes=digest, signature="b2" * 64)
    closed = Closed(
        1000, everybody, [digest] * peers, [20_480] * peers, {}, digest, [0.00123456789] * TENSORS
    )
    with tempfile.TemporaryDirectory() as place:
        ledger = Ledger(Path(place) / "ledger.db", key.sign)
        ledger.append(0, GenesisEntry(digest, key.id, "", digest, digest, 1, digest, [], 1, digest))
        ledger.append(
            1000,
            RoundEntry(closed, dict.fromkeys(everybody, 123_456), dict.fromkeys(everybody, said)),
        )
        ledger.append(1001, StateEntry(digest, peers))
        rows = ledger.rows(1, 1 << 30, 2)
        ledger.close()
    return len(msgspec.msgpack.encode(rows))


def main() -> None:
    print("| peers | bytes a round |\n|---|---|")
    for peers in PEERS:
        print(f"| {peers:,} | {bytes_of_round(peers):,} |")


if __name__ == "__main__":
    main()
