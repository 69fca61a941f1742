"""A copy of a run in a folder or in object storage, at any URL that fsspec knows, for whoever cannot or will
not fetch from the machines of the run.

    index.json                    what there is: a hint where to look, and nothing that is believed
    ledger/0000000000.zst         entries from the one with this number on, as they travel between machines
    states/00000012.safetensors   saved states
    blobs/HASH                    contributions and updates

Only the process that shows the run writes; everybody else reads, and checks what it reads by the signed ledger.
"""

import contextlib
import re
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import msgspec

from duckweed.ledger.entries import GenesisEntry
from duckweed.ledger.ledger import Ledger
from duckweed.run.checked import Hash, Number
from duckweed.run.folder import RunFolder
from duckweed.swarm.protocol.ledger import encoded

PART = 1 << 20  # bytes of entries, unpacked, from which on the next part of the ledger begins
INDEX = "index.json"
INDEX_LIMIT = 1 << 20  # bytes
_BLOB = re.compile(r"[0-9a-f]{64}")


class MirrorError(ValueError):
    """The mirror cannot be used; the message says why and what to do."""


class Index(msgspec.Struct):
    """What a mirror says that it holds."""

    run: Hash
    """Identity of the run."""
    genesis: Hash
    """Hash of the first entry of its ledger."""
    ledger: list[Number]
    """First entries of the parts of the ledger."""
    states: list[Number]
    """Rounds of the saved states."""


class Mirror:
    """One place, given by its URL."""

    def __init__(self, url: str) -> None:
        """Raises MirrorError where the URL is none that can be used; whether the place is there is not asked."""
        if re.search(r"://[^/]*@", url):
            raise MirrorError(
                "--mirror: a URL with a password in it would be shown to others; give credentials by the "
                "environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url, **_options(url))
        except ImportError as error:
            more = " (pip install 'duckweed[s3]')" if url.startswith("s3:") else ""
            raise MirrorError(f"--mirror {url}: {error}{more}") from error
        except ValueError as error:
            raise MirrorError(f"--mirror {url}: {error}") from error
        self._local = "file" in _kinds(self._files)

    def place(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    # --- reading

    def read(self, name: str, limit: int) -> bytes:
        """A file of at most so many bytes. Raises FileNotFoundError, MirrorError."""
        try:
            with self._files.open(self.place(name), "rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise MirrorError(self._words(error, "read")) from error
        if len(data) > limit:
            raise MirrorError(
                f"{self.url}: {name} is larger than the {limit} bytes that it may have"
            )
        return data

    def fetch(self, name: str, path: Path, limit: int) -> None:
        """The same, into a file. Raises FileNotFoundError, MirrorError, OSError of the disk here."""
        left = limit
        with path.open("wb") as out:
            try:
                with self._files.open(self.place(name), "rb") as file:
                    while data := file.read(1 << 20):
                        left -= len(data)
                        if left < 0:
                            raise MirrorError(f"{self.url}: {name} is larger than it may be")
                        out.write(data)
            except (FileNotFoundError, MirrorError):
                raise
            except Exception as error:
                raise MirrorError(self._words(error, "read")) from error

    def index(self) -> Index | None:
        """What there is; None in an empty place. Raises MirrorError."""
        try:
            return msgspec.json.decode(self.read(INDEX, INDEX_LIMIT), type=Index)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MirrorError(f"{self.url}: {INDEX} is not that of a mirror: {error}") from error

    # --- writing

    def write(self, name: str, data: bytes | Path) -> None:
        """Raises MirrorError. A reader finds the old file or the new one, whole."""
        at = self.place(name)
        part = f"{at}.part" if self._local else at
        try:
            if isinstance(data, Path):
                self._files.put_file(str(data), part)
            else:
                self._files.pipe_file(part, data)
            if self._local:
                self._files.mv(part, at)
        except Exception as error:  # each kind of storage has errors of its own
            if isinstance(data, Path) and not data.exists():
                return  # tidied away at this moment
            raise MirrorError(self._words(error, "written")) from error

    def names(self, folder: str) -> set[str]:
        """Of the files in a folder. Raises MirrorError."""
        try:
            found = self._files.ls(self.place(folder), detail=False)
        except FileNotFoundError:
            return set()
        except Exception as error:
            raise MirrorError(self._words(error, "read")) from error
        return {str(x).rsplit("/", 1)[-1] for x in found}

    def remove(self, name: str) -> None:
        """Where that is allowed."""
        with contextlib.suppress(Exception):
            self._files.rm_file(self.place(name))

    def _words(self, error: Exception, done: str) -> str:
        """What is wrong with the place, and what to do."""
        kind, said = type(error).__name__, (str(error) or type(error).__name__).splitlines()[0]
        if "Credentials" in kind:
            said = (
                "this machine has no credentials for it (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
            )
        elif isinstance(error, PermissionError):
            said = f"it cannot be {done} with the credentials that this machine has ({said})"
        elif isinstance(error, FileNotFoundError):
            said = f"the bucket or folder is not there; make it, or correct the URL ({said})"
        return f"mirror {self.url}: {said}"


class Sender:
    """Brings a mirror up to date with a run's folder, each time with what is new."""

    def __init__(self, mirror: Mirror, folder: RunFolder) -> None:
        self.mirror, self.folder = mirror, folder
        self._index: Index | None = None
        self._end = -1  # the last entry of the ledger that was sent
        self._there: set[str] = set()

    def look(self) -> int:
        """Send what is new; returns how many files. Raises MirrorError, LedgerError, OSError."""
        index = self._index = self._index or self._begin()
        sent = self._states(index)
        sent += sum(self._send(f"blobs/{x.name}", x) for x in self._blobs())
        if self._ledger(index) or sent:
            self.mirror.write(INDEX, msgspec.json.encode(index))
            sent += 1
        return sent

    def _begin(self) -> Index:
        with closing(Ledger(self.folder.ledger)) as ledger:
            genesis = next(ledger.entries(GenesisEntry))
        mine = Index(genesis.body.run, genesis.hash, [0], [])
        found = self.mirror.index()
        if found and (found.run, found.genesis) != (mine.run, mine.genesis):
            raise MirrorError(
                f"mirror {self.mirror.url}: another run ({found.run[:12]}) is there; nothing of it was changed. "
                "Name another folder"
            )
        self.mirror.write(INDEX, msgspec.json.encode(found or mine))
        self._there = {f"{x}/{y}" for x in ("states", "blobs") for y in self.mirror.names(x)}
        return found or mine

    def _states(self, index: Index) -> int:
        saved = self.folder.saved_rounds()
        names = {n: f"states/{self.folder.state(n).name}" for n in saved}
        sent = sum(self._send(names[n], self.folder.state(n)) for n in reversed(saved))
        for old in set(index.states) - set(saved):
            name = f"states/{self.folder.state(old).name}"
            self.mirror.remove(name)
            self._there.discard(name)
        index.states = saved
        return sent

    def _blobs(self) -> list[Path]:
        return sorted(x for x in self.folder.blobs.iterdir() if _BLOB.fullmatch(x.name))

    def _send(self, name: str, path: Path) -> bool:
        if name in self._there:
            return False
        self.mirror.write(name, path)
        self._there.add(name)
        return True

    def _ledger(self, index: Index) -> bool:
        """The last part again as it grows, and the next one where that is large."""
        with closing(Ledger(self.folder.ledger)) as ledger:
            if ledger.number == self._end:
                return False
            while True:
                rows = ledger.rows(index.ledger[-1], PART, ledger.number)
                self.mirror.write(part_name(index.ledger[-1]), encoded(rows))
                if not rows or rows[-1].number == ledger.number:
                    break
                index.ledger.append(rows[-1].number + 1)
            self._end = ledger.number
        return True


def part_name(start: int) -> str:
    """Of the part of the ledger that begins with an entry."""
    return f"ledger/{start:010d}.zst"


def _options(url: str) -> dict[str, Any]:
    if "://" not in url or url.startswith("file:"):
        return {"auto_mkdir": True}
    if url.startswith("s3:"):  # what others write meanwhile must be seen
        return {"use_listings_cache": False, "skip_instance_cache": True}
    return {}


def _kinds(files: Any) -> tuple[str, ...]:
    return (files.protocol,) if isinstance(files.protocol, str) else tuple(files.protocol)
