"""What a mirror costs the machine that keeps it: bytes and files sent in each round.

    python -m bench.scale.mirror        about a minute

Four peers train the model of `duckweed train` in one process and in virtual time. After each round the mirror, a
folder, is brought up to date as beside a real run, and what was written is counted; the blobs are real, the inner
steps few.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import duckweed
from duckweed.swarm.blobs.mirror import Mirror, Sender

ROUNDS = 4
SETTING = {
    "rounds.count": ROUNDS, "rounds.peers": 4, "rounds.checkpoint": 2, "inner.steps": 2,
    "inner.batch": 2, "inner.warmup": 2,
}  # fmt: skip


class Counting(Mirror):
    """Counts what it is given."""

    sent: ClassVar[Counter[str]] = Counter()

    def write(self, name: str, data: bytes | Path) -> None:
        super().write(name, data)
        kind = name.partition("/")[0]
        self.sent[kind] += len(data) if isinstance(data, bytes) else data.stat().st_size
        self.sent["files"] += 1


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        training = duckweed.simulate(SETTING, name="mirrored", runs=Path(place) / "runs")
        mirror = Counting(str(Path(place) / "mirror"))
        sender = Sender(mirror, training.run.folder)
        print("round        files         states          blobs         ledger")
        for closed in training:
            mirror.sent.clear()
            sender.look()
            told = (mirror.sent[x] for x in ("files", "states", "blobs", "ledger"))
            print(f"{closed.round:5}" + "".join(f"{x:15,}" for x in told), flush=True)


if __name__ == "__main__":
    main()
