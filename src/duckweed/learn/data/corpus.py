"""The documents of a data set: from files, folders, globs, Hugging Face streams, or the library.

A corpus is an ordered stream of texts. The order is that of the paths given and, within a folder
or a glob, of the sorted relative paths, so that it is the same on every machine.
"""

import codecs
import glob
import io
import json
import os
import sysconfig
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3

from duckweed.run.sections import DataSpec

PIECE = 1 << 20  # bytes; a longer text file counts as several documents, cut at line ends
HF_LIMIT = 200_000_000  # bytes of text taken from a stream that names no limit
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
# Not part of the library proper, or different from one build of the same Python to the next.
NOT_STDLIB = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
)
BUILD_FILES = ("_sysconfigdata", "sitecustomize", "usercustomize", "python-config")


Report = Callable[[str, int], None]  # what is being done ("read", "tokenise"), bytes of text so far


class DataError(ValueError):
    """The data cannot be used; the message says why and what to do."""


def documents(spec: DataSpec, base: Path, skipped: Counter[str] | None = None) -> Iterator[str]:
    """The texts of `spec` in their stable order; relative paths are relative to folder `base`.

    Left out, and counted in `skipped` by reason: empty texts ("empty"), texts with a NUL byte
    ("binary"), texts that are not UTF-8 ("not UTF-8"). Raises DataError if a path matches
    nothing, a file is damaged or lacks the field, or nothing is left at all.
    """
    skipped = Counter() if skipped is None else skipped
    used = 0
    for name in spec.paths:
        remaining = None if spec.limit is None else spec.limit - used
        texts: Iterator[str]
        if name.startswith("hf:"):
            remaining = HF_LIMIT if remaining is None else remaining
            texts = _from_hub(name, spec.field)
        else:
            texts = _from_files(files(name, base), spec.field, skipped)
        for text in _limited(_clean(texts, skipped), remaining):
            used += len(text.encode())
            yield text
        if spec.limit is not None and used >= spec.limit:
            break
    if not used:
        raise DataError(_nothing_left(spec, skipped))


def files(name: str, base: Path) -> list[Path]:
    """The files that `name` (a file, a folder, a glob, or "stdlib") stands for, in their order.

    Hidden files in folders are left out. Raises DataError if there are none.
    """
    if name == "stdlib":
        return _stdlib()
    path = Path(os.path.expanduser(name))
    path = path if path.is_absolute() else base / path
    if path.is_dir():
        found = _inside(path)
    elif path.exists():
        found = [path]
    else:
        matches = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(name) else []
        found = [f for m in map(Path, matches) for f in (_inside(m) if m.is_dir() else [m])]
        found = list(dict.fromkeys(found))  # `**` names a folder and the files in it
    if not found:
        what = "is a folder without files" if path.is_dir() else "matches no file"
        raise DataError(
            f"data: '{name}' {what} (looked in {path.parent if not path.is_dir() else path}); "
            "give a file, a folder, a glob such as 'texts/*.txt', hf:NAME, or 'stdlib'"
        )
    return found


def kind(path: Path) -> tuple[str, str | None]:
    """(suffix that decides how the file is read, compression or None): a.jsonl.gz, .jsonl, gzip."""
    compression = COMPRESSED.get(path.suffix.lower())
    return (path.with_suffix("") if compression else path).suffix.lower(), compression


def _inside(folder: Path, leave_out: frozenset[str] = frozenset()) -> list[Path]:
    """All files below `folder`, sorted by relative path; no hidden ones, no folders `leave_out`."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f not in leave_out]
        paths = [os.path.join(root, n) for n in names if not n.startswith(".")]
        found += [path for path in paths if os.path.isfile(path)]
    return [Path(f) for f in sorted(found, key=lambda f: f.replace(os.sep, "/"))]


def _stdlib() -> list[Path]:
    """The sources of this Python's standard library without its tests and build configuration."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = [
        path
        for path in _inside(folder, NOT_STDLIB)
        if path.suffix == ".py" and not path.name.startswith(BUILD_FILES)
    ]
    if not found:
        raise DataError(
            f"data: this Python comes without the sources of its standard library ({folder}); "
            "give a text file or a folder with --data"
        )
    return found


def _from_files(paths: list[Path], field: str, skipped: Counter[str]) -> Iterator[str]:
    for path in paths:
        suffix, compression = kind(path)
        try:
            with _opened(path, compression) as stream:
                if suffix == ".jsonl":
                    yield from _json_lines(path, stream, field)
                elif suffix == ".parquet":
                    yield from _column(path, stream, field, compression)
                else:
                    yield from _pieces(stream, skipped)
        except OSError as error:
            fault = f"is damaged or not {compression}" if compression else "cannot be read"
            raise DataError(f"data: {path} {fault}: {error}") from error


def _opened(path: Path, compression: str | None) -> BinaryIO:
    """A readable binary stream of the file's uncompressed bytes; OSError where it is damaged."""
    if compression is None:
        return path.open("rb")
    import pyarrow  # half a second to import; unlike zstandard it notices a truncated file

    return io.BufferedReader(pyarrow.input_stream(str(path), compression=compression), PIECE)


def _pieces(stream: BinaryIO, skipped: Counter[str]) -> Iterator[str]:
    """A text file in documents of at most PIECE bytes, so that no file has to fit in memory."""
    data = stream.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
    data += stream.read(PIECE - len(data))
    if not data:
        skipped["empty"] += 1
    while data:
        cut = len(data)
        if cut == PIECE:
            cut = data.rfind(b"\n") + 1 or _boundary(data)
        try:
            yield data[:cut].decode()
        except UnicodeDecodeError:
            skipped["binary" if b"\0" in data[:cut] else "not UTF-8"] += 1
        data = data[cut:] + stream.read(PIECE - len(data) + cut)


def _boundary(data: bytes) -> int:
    """The start of the last UTF-8 character of `data`: a place to cut that splits none."""
    cut = len(data) - 1
    while cut > len(data) - 4 and data[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut


def _json_lines(path: Path, stream: BinaryIO, field: str) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"data: {path}:{number}: not a line of JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"data: {path}:{number}: expected an object with a field '{field}'")
        yield _text_of(row, field, f"{path}:{number}")


def _column(path: Path, stream: Any, field: str, compression: str | None) -> Iterator[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        source = pyarrow.BufferReader(stream.read()) if compression else path
        table = pyarrow.parquet.ParquetFile(source, memory_map=not compression)
        if field not in table.schema_arrow.names:
            raise DataError(_missing(str(path), field, table.schema_arrow.names))
        for batch in table.iter_batches(columns=[field], batch_size=256):
            for text in batch.column(0).to_pylist():
                if text is not None:
                    yield _text_of({field: text}, field, str(path))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"data: {path} is damaged or not Parquet: {error}") from error


def _from_hub(name: str, field: str) -> Iterator[str]:
    """The training split of a data set on the Hugging Face hub, streamed."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"data: '{name}' needs the package datasets: pip install duckweed[datasets]"
        ) from error
    repository, _, config = name.removeprefix("hf:").partition(":")
    try:
        stream = datasets.load_dataset(repository, config or None, split="train", streaming=True)
        for row in stream:
            if row.get(field, "") is not None:
                yield _text_of(row, field, name)
    except DataError:
        raise
    except Exception as error:  # the library raises whatever its transport raised
        raise DataError(
            f"data: '{name}' could not be streamed from the Hugging Face hub: {error}; check the "
            "name, that the data set has a split 'train', and this machine's network"
        ) from error


def _text_of(row: dict[str, Any], field: str, where: str) -> str:
    text = row.get(field)
    if isinstance(text, str):
        return text
    if field not in row:
        raise DataError(_missing(where, field, list(row)))
    raise DataError(f"data: {where}: '{field}' holds {type(text).__name__}; expected text")


def _missing(where: str, field: str, names: list[str]) -> str:
    return (
        f"data: {where}: there is no field '{field}', only {', '.join(names) or 'none'}; "
        'name the one that holds the text: field = "..." in [data]'
    )


def _clean(texts: Iterator[str], skipped: Counter[str]) -> Iterator[str]:
    """Leaves out what no tokenizer takes: nothing, NUL (the end of a document), half characters."""
    for text in texts:
        if not text:
            skipped["empty"] += 1
        elif "\0" in text:
            skipped["binary"] += 1
        elif not _encodable(text):
            skipped["not UTF-8"] += 1
        else:
            yield text


def _encodable(text: str) -> bool:
    """False for half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _limited(texts: Iterator[str], limit: int | None) -> Iterator[str]:
    """Stops after `limit` bytes of UTF-8; the last text is cut at a character."""
    if limit is None:
        yield from texts
        return
    for text in texts:
        data = text.encode()
        if len(data) >= limit:
            if cut := data[:limit].decode(errors="ignore"):
                yield cut
            return
        limit -= len(data)
        yield text


def _nothing_left(spec: DataSpec, skipped: Counter[str]) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
    advice = {
        "not UTF-8": "convert the text with: iconv -f latin1 -t utf-8 OLD > NEW",
        "binary": "unpack archives and export documents as text first",
    }
    hints = [advice[reason] for reason in advice if skipped[reason]] or ["give a file with text"]
    return f"data: no text in {', '.join(spec.paths)} ({reasons or 'no rows'}); {'; '.join(hints)}"


@dataclass
class Spool:
    """The documents of a corpus in one file, read once, with the side of each.

    The corpus may be a stream or compressed, while the split has to know its size and a BPE has
    to see its text before the first token is written.
    """

    path: Path
    lengths: array = field(default_factory=lambda: array("Q"))  # bytes of each document
    held: bytearray = field(default_factory=bytearray)  # 1: its hash puts it on the held-out side
    skipped: Counter[str] = field(default_factory=Counter)
    hash: blake3 = field(default_factory=blake3)
    bytes: int = 0

    def fill(self, spec: DataSpec, base: Path, report: Report) -> None:
        bound = int(spec.held_out * 2.0**64)
        with self.path.open("wb") as file:
            for text in documents(spec, base, self.skipped):
                data = text.encode()
                digest = blake3(data).digest()
                self.hash.update(digest)
                self.lengths.append(len(data))
                self.held.append(int.from_bytes(digest[:8], "big") < bound)
                before = self.bytes
                self.bytes += file.write(data)
                if before // PIECE != self.bytes // PIECE:
                    report("read", self.bytes)
        report("read", self.bytes)

    def uneven(self, share: float) -> bool:
        """True if the hashes put less than a quarter or more than four times of `share` aside."""
        held = sum(n for n, h in zip(self.lengths, self.held, strict=True) if h) / self.bytes
        return share < 1 and not share / 4 <= held <= min(4 * share, 1 - (1 - share) / 4)

    def by_document(self) -> Iterator[tuple[bool, str]]:
        """(held out?, text) of each document."""
        with self.path.open("rb") as file:
            for length, held in zip(self.lengths, self.held, strict=True):
                yield bool(held), file.read(length).decode()

    def by_position(self, share: float) -> Iterator[tuple[bool, str]]:
        """The same with the last `share` of the text held out; one document is cut in two."""
        cut = self.bytes - max(1, int(self.bytes * share))
        start = 0
        for _, text in self.by_document():
            data = text.encode()
            head = data[: max(0, cut - start)].decode(errors="ignore")
            start += len(data)
            for held, piece in ((False, head), (True, text[len(head) :])):
                if piece:
                    yield held, piece
