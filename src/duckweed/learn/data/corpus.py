"""The documents of a data set: from files, folders, globs, Hugging Face streams, or the library.

A corpus is an ordered stream of texts. The order is that of the paths given and, within a folder
or a glob, of the sorted relative paths, so that it is the same on every machine.
"""

import io
import os
import stat
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from duckweed.learn.data import formats
from duckweed.learn.data.encoding import UTF8, advice
from duckweed.learn.data.files import files, kind
from duckweed.learn.data.formats import PIECE, Of
from duckweed.learn.data.reading import DataError, Reading, reasons, shown
from duckweed.run.sections import DataSpec

HF_LIMIT = 200_000_000  # bytes of text taken from a stream that names no limit

Report = Callable[[str, int], None]  # what is being done ("read", "tokenise"), bytes of text so far
Row = tuple[str, str | bytes | None]  # where it is from, its text: bytes if not decoded yet


def documents(
    spec: DataSpec, base: Path, reading: Reading | None = None, of: Of | None = None
) -> Iterator[str]:
    """The texts of `spec` in their stable order; relative paths are relative to folder `base`. of: makes a
    text of a whole row, where one field is not enough.

    `reading` learns what was read, and what was left out by reason (docs/data.md lists them).
    Raises DataError if a path matches nothing, a file is damaged or lacks the field, or nothing is
    left at all.
    """
    reading = Reading() if reading is None else reading
    for name in spec.paths:
        remaining = None if spec.limit is None else spec.limit - reading.bytes
        if name.startswith("hf:"):
            remaining = HF_LIMIT if remaining is None else remaining
            found = _from_hub(name, spec.field, of or formats.text_of)
        else:
            found = _from_files(name, base, spec, reading, of)
        clean = _clean(found, spec.charset, reading)
        for text in _limited(clean, remaining, reading, whole=of is not None):
            reading.documents += 1
            reading.bytes += len(text.encode())
            yield text
        if spec.limit is not None and reading.limited:
            break
    if not reading.bytes:
        raise DataError(_nothing_left(spec, reading))


def _from_files(
    name: str, base: Path, spec: DataSpec, reading: Reading, of: Of | None
) -> Iterator[Row]:
    found = files(name, base, reading)
    alone = found == [base / Path(name).expanduser()]
    for path in found:
        where = shown(path, base)
        _, compression = kind(path)
        try:
            state = path.stat()
            if stat.S_ISREG(state.st_mode) and not state.st_size:
                reading.leave_out("empty", where)
                continue
            with _opened(path, compression) as stream:
                reading.files += 1
                yield from _from_file(path, stream, where, spec, reading, of)
            if _changed(path, state):
                raise DataError(
                    f"data: {where} changed while it was read; start again when nothing writes to it"
                )
        except PermissionError as error:
            if alone:
                raise DataError(
                    f"data: {where} cannot be read: {error.strerror}; change its permissions"
                ) from error
            reading.leave_out("not readable", where)
        except OSError as error:
            fault = f"is damaged or not {compression}" if compression else "cannot be read"
            raise DataError(f"data: {where} {fault}: {error}") from error


def _from_file(
    path: Path, stream: BinaryIO, where: str, spec: DataSpec, reading: Reading, of: Of | None
) -> Iterator[Row]:
    """The rows of one file; a file that has none, or is refused whole, counts as one left out."""
    left_out = reading.left_out.total()
    number = 0

    def refuse(reason: str, wrong: str) -> None:
        reading.leave_out(reason, where, wrong)

    facts = path, where, stream, spec.field, spec.charset, refuse
    rows = formats.objects(*facts, of) if of else formats.rows(*facts)
    for number, (place, text) in enumerate(rows, 1):  # noqa: B007 (asked for below)
        yield where + place, text
    if not number and reading.left_out.total() == left_out:
        reading.leave_out("empty", where)


def _changed(path: Path, before: os.stat_result) -> bool:
    """Whether a regular file is another one, or was written to, since `before`."""
    now = path.stat()
    same = (now.st_size, now.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    return stat.S_ISREG(before.st_mode) and not same


def _opened(path: Path, compression: str | None) -> BinaryIO:
    """A readable binary stream of the file's uncompressed bytes; OSError where it is damaged."""
    if compression is None:
        return path.open("rb")
    import pyarrow  # half a second to import; unlike zstandard it notices a truncated file

    return io.BufferedReader(pyarrow.input_stream(str(path), compression=compression), PIECE)


def _from_hub(name: str, field: str, of: Of) -> Iterator[Row]:
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
        for number, row in enumerate(stream, 1):
            yield f"{name}: row {number}", of(row, field, f"{name}: row {number}")
    except DataError:
        raise
    except Exception as error:  # the library raises whatever its transport raised
        raise DataError(
            f"data: '{name}' could not be streamed from the Hugging Face hub: {error}; check the "
            "name, that the data set has a split 'train', and this machine's network"
        ) from error


def _clean(rows: Iterator[Row], encoding: str, reading: Reading) -> Iterator[str]:
    """The texts of `rows`, without what no tokenizer takes: nothing, NUL (the end of a document),
    half characters, bytes that are no text. The one rule for all formats."""
    bad = "not UTF-8" if encoding == UTF8 else f"not {encoding}"
    for where, text in rows:
        if text is None:
            reading.leave_out("null", where)
        elif not text:
            reading.leave_out("empty", where)
        elif (b"\0" if isinstance(text, bytes) else "\0") in text:  # type: ignore[operator]
            _undecoded("binary", where, text, reading)
        elif (decoded := _decoded(text)) is None:
            _undecoded(bad, where, text, reading)
        else:
            yield decoded


def _undecoded(reason: str, where: str, text: str | bytes, reading: Reading) -> None:
    """Leave out `text`; what to do about it is found out for the first of its reason alone."""
    if reason in reading.left_out:
        reading.leave_out(reason, where)
        return
    data = text if isinstance(text, bytes) else _bytes_of(text)
    reading.leave_out(reason, where, advice(data) if data else "")


def _bytes_of(text: str) -> bytes:
    """The bytes that JSON's text was made from; b"" for half characters that JSON spelt out."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeError:
        return b""


def _decoded(text: str | bytes) -> str | None:
    """The text; None for bytes that are no UTF-8, or for half of a surrogate pair, which JSON can
    hold and UTF-8 cannot."""
    try:
        if isinstance(text, bytes):
            return text.decode()
        return text if text.isascii() or text.encode() else None
    except UnicodeError:
        return None


def _limited(
    texts: Iterator[str], limit: int | None, reading: Reading, whole: bool
) -> Iterator[str]:
    """Stops after `limit` bytes of UTF-8. The last text is cut at a character, or left out where only whole ones are of
    use, as rows are."""
    if limit is None:
        yield from texts
        return
    for text in texts:
        data = text.encode()
        if len(data) >= limit:
            reading.limited = True
            cut = data[:limit].decode(errors="ignore")
            if cut and (cut == text or not whole):
                yield cut
            return
        limit -= len(data)
        yield text


def _nothing_left(spec: DataSpec, reading: Reading) -> str:
    found = reasons(reading.left_out, reading.examples) or "no rows"
    hint = "give a file with text"
    if reading.left_out["binary"]:
        hint = "unpack archives and export documents as text first"
    if reading.limited:
        hint = f"the first row is larger than the limit of {spec.limit} bytes"
    return f"data: no text in {', '.join(spec.paths)} ({found}); {hint}"


@dataclass
class Spool:
    """The documents of a corpus in one file, read once, with the side of each.

    The corpus may be a stream or compressed, while the split has to know its size and a BPE has
    to see its text before the first token is written.
    """

    path: Path
    lengths: array = field(default_factory=lambda: array("Q"))  # bytes of each document
    held: bytearray = field(default_factory=bytearray)  # 1: its hash puts it on the held-out side
    reading: Reading = field(default_factory=Reading)
    hash: blake3 = field(default_factory=blake3)
    bytes: int = 0

    def fill(self, spec: DataSpec, base: Path, report: Report, of: Of | None = None) -> None:
        bound = int(spec.held_out * 2.0**64)
        with self.path.open("wb") as file:
            for text in documents(spec, base, self.reading, of):
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

    def by_row(self, share: float) -> Iterator[tuple[bool, str]]:
        """The same where documents are not to be cut: with the last `share` of them held out, at least one."""
        first = len(self.lengths) - max(1, int(len(self.lengths) * share))
        for number, (_, text) in enumerate(self.by_document()):
            yield number >= first, text

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
