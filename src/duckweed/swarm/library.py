"""What a machine of the run can give to others: blobs by their hash, saved states in pieces."""

import os

from duckweed.run.folder import RunFolder
from duckweed.swarm import messages as m


class Library:
    """Reads from a run's folder; each answer is a message and the bytes that go with it."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def blob(self, digest: str) -> tuple[m.Answer, bytes]:
        if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
            return m.Refused("not the hash of a blob"), b""
        try:
            return m.Blob(), self.folder.blob(digest).read_bytes()
        except FileNotFoundError:
            return m.Refused(f"no blob {digest[:10]} here"), b""

    def newest(self) -> m.Answer:
        """The newest saved state and its size."""
        saved = self.folder.saved_rounds()[-1]
        return m.Saved(saved, self.folder.state(saved).stat().st_size)

    def piece(self, question: m.Piece) -> tuple[m.Answer, bytes]:
        """At most PIECE_LIMIT bytes of a saved state."""
        if question.round < 0 or question.start < 0:
            return m.Refused("no such piece"), b""
        try:
            with self.folder.state(question.round).open("rb") as file:
                file.seek(min(question.start, os.fstat(file.fileno()).st_size))
                return m.Blob(), file.read(m.PIECE_LIMIT)
        except FileNotFoundError:
            return m.Refused("this state is no longer kept; ask for the newest"), b""
