"""How a peer gets a blob: from its own folder, in pieces from several machines, or whole from the coordinator."""

import asyncio

import pytest

from duckweed.merge.round import blob_hash
from duckweed.net.transport import LinkError
from duckweed.run.folder import RunFolder
from duckweed.swarm.peer.blob_fetch import TOGETHER, BlobFetch, WrongBlob
from duckweed.swarm.protocol import messages as m

BLOBS = [bytes([n]) * 1000 for n in range(9)]
HASHES = [blob_hash(blob) for blob in BLOBS]


class Coordinator:
    """Gives each blob whole, or says in which pieces it is to be had."""

    def __init__(self, pieces: bool = False, lies: bool = False) -> None:
        self.pieces, self.lies = pieces, lies
        self.asked: list[m.Fetch] = []
        self.now = self.most = 0

    async def ask(self, question: m.Fetch, body: bytes = b"", body_limit: int = 0):
        self.asked.append(question)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        blob = BLOBS[HASHES.index(question.blob)]
        if self.pieces and not question.whole:
            return m.BlobManifest(len(blob), [], []), b""
        return m.Blob(), b"something else" if self.lies else blob


class Links:
    """Other machines, which give something, or nothing."""

    def __init__(self, gives: bytes | None) -> None:
        self.gives = gives

    async def blob(self, digest: str, manifest: m.BlobManifest) -> bytes:
        if self.gives is None:
            raise LinkError("no holder of the file is left")
        return self.gives


def fetch(coordinator, links=None, folder=None, say=lambda text: None):
    return BlobFetch(coordinator, links or Links(None), folder, say)


def test_what_the_folder_has_is_not_asked_for_unless_it_is_broken(tmp_path):
    folder, coordinator = RunFolder(tmp_path), Coordinator()
    folder.blobs.mkdir()
    folder.blob(HASHES[0]).write_bytes(BLOBS[0])
    folder.blob(HASHES[1]).write_bytes(b"cut off")
    one = fetch(coordinator, folder=folder)
    assert asyncio.run(one.all(HASHES[:2], 1000)) == dict(zip(HASHES[:2], BLOBS[:2], strict=True))
    assert [x.blob for x in coordinator.asked] == [HASHES[1]]


@pytest.mark.parametrize("gives", [None, b"a lie"])
def test_where_others_fail_the_coordinator_gives_it_whole(gives):
    coordinator, said = Coordinator(pieces=True), []
    one = fetch(coordinator, Links(gives), say=said.append)
    assert asyncio.run(one(HASHES[0], 1000)) == BLOBS[0]
    assert [x.whole for x in coordinator.asked] == [False, True]
    assert len(said) == (gives is None)


def test_a_coordinator_that_lies_is_named():
    with pytest.raises(WrongBlob, match="it is at fault"):
        asyncio.run(fetch(Coordinator(lies=True))(HASHES[0], 1000))


def test_several_are_fetched_at_once_and_not_all():
    coordinator = Coordinator()
    found = asyncio.run(fetch(coordinator).all(HASHES, 1000))
    assert list(found) == HASHES
    assert list(found.values()) == BLOBS
    assert coordinator.most == TOGETHER
