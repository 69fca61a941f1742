"""A blob of the run: from this machine's folder, from coordinator and peers in pieces, or whole."""

import asyncio
from collections.abc import Callable, Sequence

from duckweed.merge.round import blob_hash
from duckweed.net.transport import LinkError
from duckweed.run.folder import RunFolder
from duckweed.swarm.blobs.peer_links import PeerLinks
from duckweed.swarm.peer.coordinator_client import CoordinatorClient
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.errors import PeerStopped

TOGETHER = 4
"""Blobs that are fetched at a time: the delays of one are not waited out, and no rate limit is near."""


class WrongBlob(PeerStopped):
    """The coordinator gave something else than was asked for."""


class BlobFetch:
    """Where a peer gets blobs from. folder: that which may hold them here; None where coordinator and peer share
    one, so that only the coordinator's word says that a blob is whole. What arrives has its hash, or is not taken."""

    def __init__(
        self,
        client: CoordinatorClient,
        links: PeerLinks,
        folder: RunFolder | None,
        say: Callable[[str], None],
    ) -> None:
        self.client, self.links, self.folder, self.say = client, links, folder, say

    async def all(self, digests: Sequence[str], limit: int) -> dict[str, bytes]:
        """Several at once, by their hashes."""
        free = asyncio.Semaphore(TOGETHER)

        async def one(digest: str) -> bytes:
            async with free:
                return await self(digest, limit)

        return dict(zip(digests, await asyncio.gather(*map(one, digests)), strict=True))

    async def __call__(self, digest: str, limit: int) -> bytes:
        """The blob of that hash, of at most `limit` bytes. Raises LinkError, WrongBlob."""
        if (blob := self._here(digest)) is not None:
            return blob
        answer, blob = await self.client.ask(m.Fetch(digest), body_limit=limit)
        if isinstance(answer, m.BlobManifest) and answer.size <= limit:
            try:
                blob = await self.links.blob(digest, answer)
            except (LinkError, ValueError) as error:
                self.say(f"fetching from the coordinator alone: {error}")
        return blob if blob_hash(blob) == digest else await self.whole(digest, limit)

    async def whole(self, digest: str, limit: int) -> bytes:
        """The same from the coordinator alone."""
        _, blob = await self.client.ask(m.Fetch(digest, whole=True), body_limit=limit)
        if blob_hash(blob) != digest:
            raise WrongBlob(
                f"the coordinator sent something else as blob {digest[:10]}; it is at fault"
            )
        return blob

    def _here(self, digest: str) -> bytes | None:
        path = self.folder.blob(digest) if self.folder else None
        if path and path.exists() and blob_hash(blob := path.read_bytes()) == digest:
            return blob
        return None
