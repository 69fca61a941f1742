"""The rows of one file: pieces of a text, values of JSON, cells of a Parquet column.

Every reader yields `(where, text)` for every row, `where` being what to add to the file's name. A
row without text is None; text that was not decoded yet is bytes. What becomes of such rows is
decided in one place for all formats: `duckweed.learn.data.corpus`.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from duckweed.learn.data.encoding import BAD, UTF8, as_utf8
from duckweed.learn.data.files import JSON_LINES, kind
from duckweed.learn.data.reading import DataError

PIECE = 1 << 20  # bytes; a longer text file counts as several documents, cut at line ends
BATCH = 256  # rows of Parquet that are in memory at a time

Row = tuple[str, str | bytes | None]
Refuse = Callable[[str, str], None]  # reason, what is wrong: the whole file is left out
Of = Callable[[Any, str, str], str | None]
"""(a row, a field, where it is) -> the text of the row; None where it has none. Raises DataError."""


def rows(
    path: Path, name: str, stream: BinaryIO, field: str, encoding: str, refuse: Refuse
) -> Iterator[Row]:
    """The rows of the file `path`, called `name` in messages, whose uncompressed bytes are `stream`.

    Raises DataError, and OSError where `stream` does.
    """
    suffix, compression = kind(path)
    if suffix == ".parquet":
        return _column(name, stream if compression else path, field, encoding)
    text = as_utf8(stream, encoding)
    if suffix in JSON_LINES:
        return _json_lines(name, text, field)
    if suffix == ".json":
        return _json_file(name, text, field, refuse)
    return _pieces(text)


def objects(
    path: Path, name: str, stream: BinaryIO, field: str, encoding: str, refuse: Refuse, of: Of
) -> Iterator[Row]:
    """The rows of a file of which not one field but the whole is wanted, as `of` makes a text of each."""
    suffix, compression = kind(path)
    if suffix == ".parquet":
        yield from _table(name, stream if compression else path, field, of)
    elif suffix in JSON_LINES:
        yield from _json_lines(name, as_utf8(stream, encoding), field, of)
    elif suffix == ".json":
        yield from _json_file(name, as_utf8(stream, encoding), field, refuse, of)
    else:
        refuse(
            "neither JSON nor Parquet", "rows with several fields come from .jsonl, .json, .parquet"
        )


def _table(name: str, source: Path | BinaryIO, field: str, of: Of) -> Iterator[Row]:
    """Whole rows of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        place = source if isinstance(source, Path) else pyarrow.BufferReader(source.read())
        for batch in pyarrow.parquet.ParquetFile(place).iter_batches(batch_size=BATCH):
            for row in batch.to_pylist():
                number += 1
                yield f": row {number}", of(row, field, f"{name}: row {number}")
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"data: {name} is damaged or not Parquet: {error}") from error


def _pieces(stream: BinaryIO) -> Iterator[Row]:
    """A text file in documents of at most PIECE bytes, so that no file has to fit in memory."""
    data = stream.read(PIECE)
    if not data:
        yield "", data
    while data:
        cut = len(data)
        if cut == PIECE:
            cut = data.rfind(b"\n") + 1 or _boundary(data)
        yield "", data[:cut]
        data = data[cut:] + stream.read(PIECE - len(data) + cut)


def _boundary(data: bytes) -> int:
    """The start of the last UTF-8 character of `data`: a place to cut that splits none."""
    cut = len(data) - 1
    while cut > len(data) - 4 and data[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut


def _json_lines(name: str, stream: BinaryIO, field: str, of: Of | None = None) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        where = f":{number}"
        # Bytes that are no UTF-8 become half characters, by which their text is found.
        text = line.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(_not_json(f"{name}{where}", "a line of JSON", error)) from error
        yield where, (of or text_of)(value, field, f"{name}{where}")


def _json_file(
    name: str, stream: BinaryIO, field: str, refuse: Refuse, of: Of | None = None
) -> Iterator[Row]:
    """A `.json` file: an array of rows, or rows one after the other, on lines or not.

    The suffix is that of settings as well. So a file that is no JSON from the start (with comments,
    for example), or whose first row is no row or lacks the field, is refused as a whole.
    """
    number = 0
    try:
        for number, value in enumerate(_JsonValues(stream), 1):
            where = f": row {number}"
            if number == 1 and of is None and not _is_row(value, field):
                what = _listed(value) if isinstance(value, dict) else _kind(value)
                refuse(f"without a field '{field}'", f"the first row has only {what}")
                return
            yield where, (of or text_of)(value, field, f"{name}{where}")
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        if number == 0 and not isinstance(error, RecursionError):
            refuse("not JSON", str(error))
            return
        raise DataError(_not_json(f"{name}: row {number + 1}", "JSON", error)) from error


class _JsonValues(Iterator[Any]):
    """The values in a stream of JSON: the elements of one array, or one value after another.

    Holds no more of the stream than its longest value takes. Raises ValueError and RecursionError.
    """

    _blank = re.compile(r"[ \t\r\n]*")

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False
        self._first = True
        self.array = self._next_mark() == "["
        self._at += self.array

    def __next__(self) -> Any:
        mark = self._next_mark()
        if self.array:
            if mark == "]":
                self._at += 1
                if self._next_mark():
                    raise ValueError("something follows the end of the array")
                self.array, mark = False, ""
            elif not self._first:
                if mark != ",":
                    raise ValueError("the array is cut off" if not mark else "a comma is missing")
                self._at += 1
                mark = self._next_mark()
            if self.array and not mark:
                raise ValueError("the array is cut off")
        if not mark:
            raise StopIteration
        self._first = False
        return self._value()

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._scan(self._text, self._at)
                if end < len(self._text) or self._ended:  # a number might go on
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                # What is wrong near the end of what was read may only be not read yet.
                near = error.pos >= len(self._text) - 16 or error.msg.startswith("Unterminated")
                if self._ended or not near:
                    raise
            self._more()

    def _next_mark(self) -> str:
        """The next character that is not blank, which stays; "" at the end."""
        while True:
            blank = self._blank.match(self._text, self._at)
            assert blank is not None  # it matches nothing as well
            self._at = blank.end()
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def _more(self) -> None:
        """Read at least as much again as is held, so that a long value is not scanned too often."""
        data = self._stream.read(max(PIECE, len(self._text) - self._at))
        self._ended = not data
        self._text = self._text[self._at :] + self._decoder.decode(data, self._ended)
        self._at = 0


def _column(name: str, source: Path | BinaryIO, field: str, encoding: str) -> Iterator[Row]:
    """The cells of one column. A stream is held in memory: Parquet is read from its end."""
    import pyarrow
    import pyarrow.parquet

    try:
        mapped = isinstance(source, Path)
        place = source if isinstance(source, Path) else pyarrow.BufferReader(source.read())
        table = pyarrow.parquet.ParquetFile(place, memory_map=mapped)
        top, inside = _place(table.schema_arrow, field, name)
        number = 0
        for batch in table.iter_batches(columns=[field], batch_size=BATCH):
            column = batch.column(batch.schema.get_all_field_indices(top)[0])
            for cell in _bytes_of(column, inside, encoding):
                number += 1
                yield f": row {number}", cell
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"data: {name} is damaged or not Parquet: {error}") from error


def _place(schema: Any, field: str, where: str) -> tuple[str, list[str]]:
    """The column that holds `field`, and the names that lead to it inside of the column: a column
    of that very name, else one of structs, as "doc.text" says."""
    import pyarrow

    if field in schema.names:
        top, inside = field, []
    else:
        top, *inside = field.split(".")
    place: Any = pyarrow.struct(list(schema))
    for name in (top, *inside):
        if not isinstance(place, pyarrow.StructType) or not place.get_all_field_indices(name):
            raise DataError(missing(where, field, _columns(schema)))
        place = place.field(place.get_all_field_indices(name)[0]).type
    if isinstance(place, pyarrow.DictionaryType):
        place = place.value_type
    kinds = pyarrow.types
    if not (
        kinds.is_string(place) or kinds.is_large_string(place) or kinds.is_string_view(place)
        or kinds.is_binary(place) or kinds.is_large_binary(place) or kinds.is_binary_view(place)
        or kinds.is_fixed_size_binary(place) or kinds.is_null(place)
    ):  # fmt: skip
        raise DataError(f"data: {where}: '{field}' holds {place}; expected text")
    return top, inside


def _columns(schema: Any) -> list[str]:
    """The columns, those inside of structs by their whole name."""
    import pyarrow

    names = []
    for column in schema:
        parts = column.type if isinstance(column.type, pyarrow.StructType) else ()
        names += [f"{column.name}.{part.name}" for part in parts] or [column.name]
    return names


def _bytes_of(column: Any, inside: list[str], encoding: str) -> Iterator[bytes | str | None]:
    """The cells of an Arrow column of any kind of text. They are decoded by nobody yet: a column of
    strings may hold bytes that are no UTF-8, and one of bytes may be in another encoding."""
    import pyarrow
    import pyarrow.compute

    for name in inside:
        column = pyarrow.compute.struct_field(column, name)
    if isinstance(column.type, pyarrow.DictionaryType):
        column = column.dictionary_decode()
    strings = "string" in str(column.type)  # which are UTF-8, if they are as they should be
    for cell in column.cast(pyarrow.large_binary()).to_pylist():
        if cell is None or encoding == UTF8 or (strings and _is_utf8(cell)):
            yield cell
        else:
            yield cell.decode(encoding, BAD)


def _is_utf8(data: bytes) -> bool:
    try:
        return data.isascii() or bool(data.decode())
    except UnicodeDecodeError:
        return False


def text_of(row: Any, field: str, where: str) -> str | None:
    """The text of a row: an object with the field, a string, or null. Raises DataError."""
    value = row
    if isinstance(row, dict):
        if not _is_row(row, field):
            raise DataError(missing(where, field, list(row)))
        value = _inside(row, field)
    elif not (row is None or isinstance(row, str)):
        raise DataError(f"data: {where}: expected an object with a field '{field}'")
    if value is None or isinstance(value, str):
        return value
    raise DataError(f"data: {where}: '{field}' holds {_kind(value)}; expected text")


def _is_row(row: Any, field: str) -> bool:
    """Whether `row` can hold a text; of an object: whether it has the field."""
    if isinstance(row, dict):
        return _inside(row, field) is not row
    return row is None or isinstance(row, str)


def _inside(row: dict[str, Any], field: str) -> Any:
    """What is under `field`, or under "doc.text" the text of doc; `row` itself if nothing is."""
    if field in row:
        return row[field]
    place: Any = row
    for name in field.split("."):
        if place is None:  # an object that is null: so is what it would hold
            return None
        if not isinstance(place, dict) or name not in place:
            return row
        place = place[name]
    return place


def missing(where: str, field: str, names: list[str]) -> str:
    """The message for a field that is not there; `names`: those that are."""
    return (
        f"data: {where}: there is no field '{field}', only {', '.join(names) or 'none'}; name the "
        'one that holds the text: field = "..." in [data], or --set data.field=NAME'
    )


def _listed(row: dict[str, Any]) -> str:
    return ", ".join(list(row)[:20]) or "nothing"


def _kind(value: Any) -> str:
    return type(value).__name__


def _not_json(where: str, what: str, error: Exception) -> str:
    if isinstance(error, RecursionError):
        return f"data: {where}: nested too deeply to be read; take this row out"
    return f"data: {where}: not {what} ({error})"
