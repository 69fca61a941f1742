"""The folder of a run: where its files are, and how they are written so that nothing is lost."""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import get_ident
from typing import Any, NamedTuple, TypeVar

import msgspec

from duckweed.run import events
from duckweed.run.events import Event
from duckweed.run.lock import Busy, alone

E = TypeVar("E", bound=Event)


FOUNDING, FOUNDING_LOCK = ".founding", ".founding.lock"
"""How the names of a folder in which a run is being founded, and of its lock, end."""


FAMILY = "family.toml"
"""The specification of a family of runs, in its folder (duckweed.family.folder)."""


PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
"""A name that leads nowhere but into the folder that it is joined to."""


class FolderError(ValueError):
    """The folder of a run is missing, taken, or not one; the message says what to do."""


class RunFolder:
    """Paths inside `runs/NAME/`, and the two files that grow: metrics and blobs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "run.toml"
        self.ledger = path / "ledger.db"
        self.dropped = path / "ledger-dropped.jsonl"  # entries that never counted
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model"
        self.report = path / "report.html"
        self.coordinator_key = path / "coordinator.key"
        self.secret = path / "secret"
        self.guests = path / "guests.db"
        self.handed_in = path / "handed-in.jsonl"  # contributions to the open round
        self.offers = path / "offers"  # what a path has for the tensors that all paths share
        self.serving = path / "serving.json"
        self.states = path / "states"
        self.blobs = path / "blobs"
        self.shown = path / "shown"  # what peers carried, while it is audited
        self.logs = path / "logs"

    @property
    def founded(self) -> bool:
        """Whether a run has begun here: the ledger is the last thing that is written at its founding."""
        return self.spec.is_file() and self.ledger.is_file()

    def read_secret(self) -> str:
        """The secret that a peer must know to get in."""
        return self.secret.read_text("ascii")

    def state(self, round_: int) -> Path:
        return self.states / f"{round_:08d}.safetensors"

    def offer(self, round_: int) -> Path:
        return self.offers / f"{round_:08d}.json"

    def saved_rounds(self) -> list[int]:
        """Rounds of which a state is on disk, oldest first."""
        return sorted(int(p.stem) for p in self.states.glob("*.safetensors") if p.stem.isdigit())

    def start(self, overlap: bool) -> Path:
        """The saved state from which peers beside the coordinator go on. With overlap a round is begun
        from the state before."""
        return self.state(self.saved_rounds()[-2 if overlap else -1 :][0])

    def blob(self, digest: str) -> Path:
        """Raises ValueError if that is no name of a blob."""
        return inside(self.blobs, digest)

    def shown_blob(self, digest: str) -> Path:
        """Where what a peer carried is kept until its audit has ended. Raises ValueError likewise."""
        return inside(self.shown, digest)

    def peer(self, index: int) -> Path:
        return self.path / "peers" / str(index)

    def local(self) -> dict[str, Any]:
        """What holds on this machine only (local.json): where data and plug-ins lie."""
        path = self.path / "local.json"
        return json.loads(path.read_text("utf-8")) if path.is_file() else {}

    def note(self, facts: dict[str, Any]) -> None:
        """Set some keys of local.json."""
        text = json.dumps(self.local() | facts)
        write_atomically(self.path / "local.json", text.encode())

    def record(self, event: Event) -> None:
        """Append one line to metrics.jsonl. Raises ValueError if a number in it is not finite."""
        line = events.encode(event)
        with self.metrics.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line that a crash cut off must not swallow this one
                    line = b"\n" + line
            file.write(line)

    def records(self, *kinds: type[E]) -> Iterator[E]:
        """The events of these kinds in metrics.jsonl, in order. Lines of other kinds, and those that a
        crash cut off, are passed over. Raises FolderError if one of these kinds is not as it should be.
        """
        if not self.metrics.exists():
            return
        with self.metrics.open("rb") as file:
            for line in file:
                if events.kind_of(line) not in kinds:
                    continue
                try:
                    event = events.decode(line)
                except msgspec.ValidationError as error:
                    raise FolderError(
                        f"{self.metrics}: a line is not as duckweed writes it: {error}"
                    ) from error
                if isinstance(event, kinds):
                    yield event


def create(root: Path, name: str) -> RunFolder:
    """A new, empty folder root/name. Raises FolderError if it exists."""
    _check_free(root, name)
    return _make(root / name)


@contextmanager
def founding(root: Path, name: str) -> Iterator[RunFolder]:
    """The folder of a run that is being founded, as of `beginning`."""
    with beginning(root, name) as part:
        yield _make(part)


@contextmanager
def beginning(root: Path, name: str) -> Iterator[Path]:
    """A folder beside root/name, for a run or a family that is being founded. It becomes root/name when the
    block has ended well, and is removed if the block fails; what a founding that was killed has left is
    removed first. So a run's folder is there whole or not at all, and its name is free until then.

    Raises FolderError if the name is taken, or another process is founding a run of that name.
    """
    _check_free(root, name)
    root.mkdir(parents=True, exist_ok=True)
    part, lock = root / f".{name}{FOUNDING}", root / f".{name}{FOUNDING_LOCK}"
    with ExitStack() as held:
        try:
            held.enter_context(alone(lock, wait=False))
        except Busy as error:
            raise FolderError(
                f"{root / name} is being begun by another process; choose another name with --name"
            ) from error
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            yield part
            _check_free(root, name)
            part.rename(root / name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            with suppress(OSError):
                lock.unlink()


def _check_free(root: Path, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        raise FolderError(
            f"{name[:60]!r} is not a name for a run: letters, digits, '.', '_' and '-', at most 100"
        )
    path = root / name
    if not path.exists():
        return
    raise FolderError(
        f"{path} exists already. Go on with it: `duckweed train --resume {path}`; "
        "or choose another name with --name"
        if RunFolder(path).founded or (path / FAMILY).is_file()
        else f"{path} exists already and holds no run that has begun. If nothing in it is needed, "
        "remove it; or choose another name with --name"
    )


def _make(path: Path) -> RunFolder:
    folder = RunFolder(path)
    for part in (folder.states, folder.blobs, folder.logs):
        part.mkdir(parents=True)
    folder.secret.touch(mode=0o600)
    folder.secret.write_text(secrets.token_urlsafe(24), "ascii")
    return folder


def find(path: Path) -> RunFolder:
    """The folder of an existing run, given as a path or as a name under runs/. Raises FolderError."""
    for place in (path, Path("runs") / path):
        if (place / "run.toml").is_file():
            return RunFolder(place)
    if (path / "config.json").is_file():
        raise FolderError(
            f"{path}: a model, and not a run. Of a model alone there are `duckweed generate {path}` and "
            f"`duckweed evaluate {path}`; to train it: duckweed train --model {path} "
            "--set model.weights=given"
        )
    for place in (path, Path("runs") / path):
        if (place / FAMILY).is_file():
            raise FolderError(
                f"{place} is a family of runs, which this command does not take as a whole; name one of its runs: "
                f"{place}/common, {place}/path-0 and so on"
            )
    known = sorted(p.parent.name for p in Path("runs").glob("*/run.toml"))
    hint = f" Runs here: {', '.join(known)}." if known else ""
    raise FolderError(f"{path}: no run there (a run is a folder with run.toml).{hint}")


def model_folder(path: Path) -> Path:
    """Where the model lies if `path` is a run's folder; any other path as it is. Raises FolderError where the
    run has no model yet."""
    if not (path / "run.toml").is_file():
        return path
    folder = RunFolder(path)
    if not (folder.model / "config.json").is_file():
        raise FolderError(
            f"{path} has no model yet: the run is not finished. Go on with it: duckweed train --resume {path}"
        )
    return folder.model


def next_name(root: Path, stem: str) -> str:
    """stem-1, stem-2, ...: the first that is free under root, and that nobody is founding."""
    taken = {p.name for p in root.glob(f"{stem}-*")} if root.is_dir() else set()
    for lock in root.glob(f".{stem}-*{FOUNDING_LOCK}"):
        try:
            with alone(lock, wait=False):
                pass
        except Busy:
            taken.add(lock.name[1 : -len(FOUNDING_LOCK)])
    return next(f"{stem}-{n}" for n in range(1, 1_000_000) if f"{stem}-{n}" not in taken)


def private(folder: Path) -> Path:
    """Make a folder, if it is not there, that nobody but its owner can look into: whatever lies in it is
    then the owner's alone. Returns it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    with suppress(PermissionError):  # another user's, who has given us the use of it
        folder.chmod(0o700)
    return folder


def inside(folder: Path, name: str) -> Path:
    """The path of `name` in a folder. Raises ValueError if a name, which may come from the network, is not a
    plain one and could lead elsewhere."""
    if not PLAIN.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} is not a plain name: letters, digits, '-', '_' and '.', at most 100, the first "
            "of them no '.'"
        )
    return folder / name


class Destination(NamedTuple):
    """Where a new run goes: into the folder runs/name. base: where relative paths of its specification start."""

    base: Path
    runs: Path
    name: str

    @property
    def path(self) -> Path:
        return self.runs / self.name


def write_atomically(path: Path, data: bytes) -> None:
    """Write so that after a crash either the old or the new contents are there, whole. Several processes and threads
    may write the same file at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.{get_ident()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)  # of a full disk


def write_for_good(path: Path, data: bytes) -> None:
    """The same, and when it returns not even a loss of power brings the old contents back."""
    write_atomically(path, data)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
