"""The files that a path stands for: a file, a folder, a glob, or the standard library.

Their order is that of the sorted paths, so that it is the same on every machine. Links are
followed, in folders as in globs; what two paths lead to is read once.
"""

import glob
import os
import stat
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from duckweed.learn.data.reading import DataError, Reading, shown

# Not part of the library proper, or different from one build of the same Python to the next.
NOT_STDLIB = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
)
BUILD_FILES = ("_sysconfigdata", "sitecustomize", "usercustomize", "python-config")
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
JSON_LINES = frozenset({".jsonl", ".ndjson", ".jsonlines"})
STRUCTURED = JSON_LINES | {".json", ".parquet"}


def files(name: str, base: Path, reading: Reading | None = None) -> list[Path]:
    """The files that `name` (a file, a folder, a glob, or "stdlib") stands for, in their order.

    `reading` learns what is left out: "hidden" files and folders, what is "no file" (pipes,
    devices), a "broken link", what is "not readable", what was "reached twice". Raises DataError
    if nothing is left.
    """
    if name == "stdlib":
        return _stdlib()
    path = base / os.path.expanduser(name)  # an absolute path stays as it is
    walk = _Walk(base, Reading() if reading is None else reading)
    if path.is_dir():
        found = walk.once(walk.below(path), path)
    elif path.exists():
        found = [_plain(path, name)]
    else:
        top = next(parent for parent in path.parents if parent.is_dir())
        matches = walk.glob(top, path.relative_to(top).parts) if glob.has_magic(name) else []
        matched = [f for m in sorted(matches) for f in walk.at(m)]
        found = walk.once(matched, top)  # `**` names a folder and the files in it
    if not found:
        raise DataError(_none_found(name, path, walk.reading))
    return found


def kind(path: Path) -> tuple[str, str | None]:
    """(suffix that decides how the file is read, compression or None): a.jsonl.gz, .jsonl, gzip."""
    compression = COMPRESSED.get(path.suffix.lower())
    return (path.with_suffix("") if compression else path).suffix.lower(), compression


class _Walk:
    """A walk through folders that follows links and enters every folder once."""

    def __init__(self, base: Path, reading: Reading) -> None:
        self.base, self.reading = base, reading

    def at(self, path: Path) -> Iterator[Path]:
        """The files at `path`: itself, or those in the folder that it is."""
        try:
            mode = path.stat().st_mode
        except PermissionError:
            self._leave_out("not readable", path)
        except OSError:  # also a link that leads in a circle
            self._leave_out("broken link", path)
        else:
            if stat.S_ISDIR(mode):
                yield from self.below(path)
            elif stat.S_ISREG(mode):
                yield path
            else:
                self._leave_out("no file", path)

    def glob(self, top: Path, pattern: tuple[str, ...]) -> list[Path]:
        """What is at `pattern`, a part for each level, below the folder `top`.

        `top` is taken literally: it may be called [data]. "**" enters every folder once; that of
        Python's own glob goes round a circle of links until it has made 2^40 paths of it.
        """
        places = [top]
        for number, part in enumerate(pattern, 1):
            if part == "**":
                if number < len(pattern):  # at the end, the folders stand for all that is in them
                    places = [folder for place in places for folder in self._folders(place)]
            else:
                names = (os.path.join(glob.escape(str(place)), part) for place in places)
                places = [Path(match) for name in names for match in glob.glob(name)]
        return places

    def _folders(self, top: Path) -> list[Path]:
        """`top` and all folders below."""
        if not top.is_dir():
            return []
        walk = _Walk(self.base, Reading())
        folders: list[Path] = []
        walk.below(top, folders=folders)
        if reason := walk.reading.examples.get("not readable"):
            self.reading.leave_out("not readable", reason)
        return folders

    def below(
        self, top: Path, skip: frozenset[str] = frozenset(), folders: list[Path] | None = None
    ) -> list[Path]:
        """All files below the folder `top`, by relative path; no hidden ones, no folders `skip`.

        folders: where to note the folders that were entered.
        """
        found: list[Path] = []
        entered: set[tuple[int, int]] = set()  # device and inode: links may lead in a circle
        waiting = [top]
        while waiting:
            # Folders come before links to folders: a link must not rename what it leads to.
            links: list[Path] = []
            while waiting:
                folder = waiting.pop()
                entries = self._entries(folder, entered)
                if folders is not None and entries is not None:
                    folders.append(folder)
                for entry in entries or ():
                    path = folder / entry.name
                    if entry.name.startswith("."):
                        self._leave_out("hidden", path)
                    elif entry.is_file(follow_symlinks=False):
                        found.append(path)
                    elif not path.is_dir():  # DirEntry.is_dir raises where a link leads to itself
                        found += self.at(path)
                    elif entry.name not in skip:
                        (links if entry.is_symlink() else waiting).append(path)
            waiting = sorted(links, reverse=True)
        return sorted(found, key=lambda f: str(f).replace(os.sep, "/"))

    def _entries(
        self, folder: Path, entered: set[tuple[int, int]]
    ) -> list["os.DirEntry[str]"] | None:
        """What is in `folder`; None if it was entered before or may not be read."""
        try:
            status = folder.stat()
            identity = status.st_dev, status.st_ino
            if identity in entered:
                self._leave_out("reached twice", folder)
                return None
            with os.scandir(folder) as scan:
                entries = list(scan)
        except OSError:
            self._leave_out("not readable", folder)
            return None
        entered.add(identity)
        return entries

    def once(self, found: list[Path], top: Path) -> list[Path]:
        """`found`, below the folder `top`, without paths that lead to a file that another one leads
        to as well.

        A path whose suffix says how to read it stays before one without, a path without links
        before one with; then the first.
        """
        if not any(path.is_symlink() for path in _with_folders(found, top)):
            return list(dict.fromkeys(found))
        root = os.path.realpath(top)
        best: dict[str, tuple[bool, bool, int]] = {}
        ranks = []
        for number, path in enumerate(dict.fromkeys(found)):
            real = os.path.realpath(path)
            linked = real != os.path.join(root, path.relative_to(top))
            rank = (kind(path)[0] not in STRUCTURED, linked, number)
            ranks.append((path, real, rank))
            best[real] = min(best.get(real, rank), rank)
        for path, real, rank in ranks:
            if best[real] != rank:
                self._leave_out("reached twice", path)
        return [path for path, real, rank in ranks if best[real] == rank]

    def _leave_out(self, reason: str, path: Path) -> None:
        self.reading.leave_out(reason, shown(path, self.base))


def _with_folders(paths: list[Path], top: Path) -> Iterator[Path]:
    """The paths and every folder below `top` that leads to one of them, each once."""
    seen = {top, *top.parents}
    for path in paths:
        yield path
        for parent in path.parents:
            if parent in seen:
                break
            seen.add(parent)
            yield parent


def _plain(path: Path, name: str) -> Path:
    """`path`, unless it is a device; a pipe such as the shell makes for <(COMMAND) is read."""
    if path.is_char_device() or path.is_block_device():
        raise DataError(f"data: '{name}' is a device; give a file, a folder or a glob")
    return path


def _none_found(name: str, path: Path, reading: Reading) -> str:
    looked_in = path if path.is_dir() else path.parent
    if reading.left_out["not readable"] and path.is_dir():
        return f"data: '{name}' has nothing that this user may read (looked in {looked_in}); change its permissions"
    what = "is a folder without files" if path.is_dir() else "matches no file"
    if path.is_symlink():
        what = "is a link to something that does not exist"
    others = f"; left out there: {', '.join(reading.left_out)}" if reading.left_out else ""
    return (
        f"data: '{name}' {what} (looked in {looked_in}{others}); "
        "give a file, a folder, a glob such as 'texts/*.txt', hf:NAME, or 'stdlib'"
    )


def _stdlib() -> list[Path]:
    """The sources of this Python's standard library without its tests and build configuration."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = [
        path
        for path in _Walk(folder, Reading()).below(folder, NOT_STDLIB)
        if path.suffix == ".py" and not path.name.startswith(BUILD_FILES)
    ]
    if not found:
        raise DataError(
            f"data: this Python comes without the sources of its standard library ({folder}); "
            "give a text file or a folder with --data"
        )
    return found
