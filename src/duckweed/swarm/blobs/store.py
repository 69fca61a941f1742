"""What a machine of the run can give to others: blobs by their hash, saved states, both in pieces."""

from collections import OrderedDict
from pathlib import Path

from duckweed.run.folder import RunFolder
from duckweed.swarm.blobs import pieces
from duckweed.swarm.blobs.pieces import Parts
from duckweed.swarm.protocol import messages as m

REMEMBERED = 4  # blobs, and files' hashes, that are kept in memory after they were needed


class Store:
    """Reads from a run's folder, and from blobs that are being fetched. Each answer is a message and its
    body."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self._gathered: OrderedDict[str, Parts] = OrderedDict()
        self._known: OrderedDict[Path, tuple[int, list[bytes]]] = OrderedDict()

    def blob(self, digest: str) -> tuple[m.Answer, bytes]:
        """A whole blob, or what a peer carried, while it is audited."""
        try:
            path = self._path(digest)
            shown = self.folder.shown_blob(digest)
            return m.Blob(), (shown if shown.exists() else path).read_bytes()
        except FileNotFoundError:
            return m.Refused(f"no blob {digest[:10]} here"), b""
        except ValueError as error:
            return m.Refused(str(error)), b""

    def _path(self, digest: str) -> Path:
        if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
            raise ValueError("not the hash of a blob")
        return self.folder.blob(digest)

    def gather(self, digest: str, parts: Parts) -> None:
        """From now on give also the pieces of a blob that is being fetched. The oldest blobs are dropped."""
        self._gathered[digest] = parts
        while len(self._gathered) > REMEMBERED:
            self._gathered.popitem(last=False)

    def blob_piece(self, question: m.GetBlobPiece) -> tuple[m.Answer, bytes]:
        """A piece of a blob; Wait if it is being fetched and this piece is not here yet."""
        parts = self._gathered.get(question.blob)
        if parts and 0 <= question.number < len(parts.hashes):
            data = parts.piece(question.number)
            return (m.Wait("not here yet"), b"") if data is None else (m.Blob(), data)
        try:
            return self._read(self._path(question.blob), question.number)
        except ValueError as error:
            return m.Refused(str(error)), b""
        except FileNotFoundError:
            return m.Wait("not here yet"), b""

    def pieces_of(self, digest: str) -> tuple[int, list[bytes]]:
        """Size of a blob and hashes of its pieces. Raises FileNotFoundError, ValueError."""
        return self._hashes(self._path(digest))

    def give(
        self, question: m.GetBlobPiece | m.GetStatePiece | m.GetSavedState
    ) -> tuple[m.Answer, bytes]:
        """Answers that peers and the coordinator give in the same way."""
        match question:
            case m.GetBlobPiece():
                return self.blob_piece(question)
            case m.GetStatePiece():
                return self.state_piece(question)
            case m.GetSavedState():
                return self.newest_state(), b""

    def newest_state(self) -> m.Answer:
        """The newest saved state, its size and the hashes of its pieces."""
        for saved in reversed(self.folder.saved_rounds()):
            try:
                return m.SavedState(saved, *self._hashes(self.folder.state(saved)))
            except FileNotFoundError:  # tidied away at this moment
                continue
        return m.Refused("this machine keeps no state")

    def state_piece(self, question: m.GetStatePiece) -> tuple[m.Answer, bytes]:
        """A piece of a saved state."""
        if question.round < 0:
            return m.Refused("no such piece"), b""
        try:
            return self._read(self.folder.state(question.round), question.number)
        except FileNotFoundError:
            return m.Refused("this state is no longer kept; ask for the newest"), b""

    def _read(self, path: Path, number: int) -> tuple[m.Answer, bytes]:
        size = path.stat().st_size
        step = pieces.length(size)
        if not 0 <= number * step < size:
            return m.Refused("no such piece"), b""
        with path.open("rb") as file:
            file.seek(number * step)
            return m.Blob(), file.read(step)

    def _hashes(self, path: Path) -> tuple[int, list[bytes]]:
        size = path.stat().st_size
        if path not in self._known or self._known[path][0] != size:
            self._known[path] = (size, pieces.hashes_of(path))
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return self._known[path]
