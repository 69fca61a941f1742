"""What a peer can show of its contributions: each with what it carried before and after it, by their hashes.

What is asked for is set aside before the peer's next contribution replaces it, and sent beside the training.
"""

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from blake3 import blake3

from duckweed.audit.draw import LONGEST
from duckweed.net.framing import LinkError
from duckweed.run.folder import write_atomically
from duckweed.swarm.peer.coordinator_client import CoordinatorClient
from duckweed.swarm.protocol import messages as m

log = logging.getLogger(__name__)


class Evidence:
    """The files that auditors may ask this peer for. home: folder of the peer, which has the residuals too."""

    def __init__(self, home: Path, client: CoordinatorClient, say: Callable[[str], None]) -> None:
        self.home, self.client, self.say = home, client, say
        self._sending: asyncio.Task[None] | None = None
        self._missed: set[str] = set()  # what was asked for and is not here

    def keep(self, round_: int, digest: str, contribution: bytes) -> None:
        """Keep a contribution: another coordinator than the one that takes it may ask for it."""
        write_atomically(self._path(round_, digest), contribution)

    async def show(self, round_: int, wanted: Collection[str]) -> None:
        """A round has closed: forget what is too old to be asked for, set aside what is asked for, and send it
        in the background. wanted: hashes."""
        for path in self._kept():
            if int(path.stem.split("-")[1]) + LONGEST < round_:
                path.unlink(missing_ok=True)
        wanted = set(wanted) - self._missed
        places = {x: await asyncio.to_thread(self._find, round_, x) for x in wanted}
        found = {digest: place for digest, place in places.items() if place}
        lost = wanted - found.keys()
        if lost:
            self._missed |= lost
            self.say(
                "other peers audit a contribution of this one, and a file that they need is gone. Its "
                "next contributions weigh as little as a newcomer's; the third such loss puts this peer out"
            )
        if found and (self._sending is None or self._sending.done()):
            self._sending = asyncio.create_task(self._send(found))

    def close(self) -> None:
        """Send no more."""
        if self._sending:
            self._sending.cancel()

    def _path(self, round_: int, digest: str) -> Path:
        return self.home / f"shown-{round_:08d}-{digest}"

    def _kept(self) -> Iterator[Path]:
        return self.home.glob("shown-*")

    def _find(self, round_: int, digest: str) -> Path | None:
        """Where a file with this hash is; one that the next round replaces is set aside."""
        for path in self._kept():
            if path.name.endswith(digest):
                return path
        for path in self.home.glob("residual-*.safetensors"):
            if blake3().update_mmap(path).hexdigest() == digest:
                aside = self._path(round_, digest)
                try:
                    os.link(path, aside)
                except OSError:  # the file system has no hard links
                    shutil.copyfile(path, aside)
                return aside
        return None

    async def _send(self, found: dict[str, Path]) -> None:
        for digest, path in found.items():
            # What does not arrive is asked for again when the next round closes.
            with contextlib.suppress(LinkError, OSError):
                data = await asyncio.to_thread(path.read_bytes)
                await self.client.ask_once(m.Shown(digest), body=data)
                log.info("shown %s, %d bytes", digest[:10], len(data))
