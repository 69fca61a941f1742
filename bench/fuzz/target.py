"""The run that is attacked, and what everybody can say in it."""

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from duckweed.merge.announcement import Announcement
from duckweed.net.identity import Identity
from duckweed.round.open_round import Timings
from duckweed.run.folder import RunFolder
from duckweed.swarm.peer.status_client import status
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.invitation import Invitation

PER_KEY = 22  # messages of one key: it is cut off before the last of them
PATIENCE = 15.0  # seconds for an answer
IN_VAIN = 5  # times in a row that nothing is heard before it is given up

Ended = Counter[tuple[str, str]]
"""How often what was sent ended how: by (kind, how)."""


class Target:
    """A run that is served, and the process that serves it. source: where those who attack it sit."""

    def __init__(
        self, folder: RunFolder, id: str, addresses: list[str], source: str = "127.0.0.1:0"
    ) -> None:
        self.folder, self.id, self.addresses, self.source = folder, id, addresses, source
        self.pid = int((folder.path / "coordinator.pid").read_text())

    def memory(self) -> int:
        """Bytes that the coordinator holds in memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        return 0

    async def status(self) -> m.Status:
        secret = self.folder.read_secret()
        there = Invitation("", self.id, tuple(self.addresses), secret)
        return await status(there, Identity(os.urandom(32)))


def announcement(**changes: Any) -> Announcement:
    first = Announcement(0, 0, 0, "ab" * 32, 100, 192, 3, 2.0, [0.1] * 20)
    return msgspec.structs.replace(first, **changes)


def sensible(dice: random.Random) -> m.Message:
    """A message that a member might send."""
    return dice.choice(
        [
            m.Join(m.PROTOCOL, "guess"), m.GetRunInfo(m.PROTOCOL), m.GetStatus(m.PROTOCOL, "x"),
            m.Probe(1 << 20, "x"), m.Next(dice.randrange(9), "ab" * 32, True),
            m.Progress("training", 1, 2, 3.0), m.Fetch("ab" * 32), m.Fetch("../ledger.db"),
            m.Leave("bye"), m.GetSavedState(), m.GetStatePiece(0, dice.randrange(1 << 40)),
            m.Contribute(announcement(), b"s" * 64, Timings()),
        ]
    )  # fmt: skip


def table(ended: Ended) -> dict[str, dict[str, int]]:
    """kind -> how it ended -> how often."""
    kinds: dict[str, dict[str, int]] = {}
    for (kind, how), count in sorted(ended.items()):
        kinds.setdefault(kind, {})[how] = count
    return kinds
