"""Bytes to UTF-8: files in other encodings are turned into it as they are read.

A byte-order mark says by itself what a file is; without one it is what the specification names.
"""

import codecs
import io
from typing import BinaryIO

PIECE = 1 << 20  # bytes that are turned at a time
SAMPLE = 1 << 16  # bytes of which an encoding is guessed
UTF8 = "utf-8"
# The mark of UTF-32 begins with that of UTF-16: the longer ones first.
MARKS = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Python's codecs of these names take the order of the machine's own bytes.
WITHOUT_MARK = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}
# Encodings that files are in where they are no Unicode; of all that Python knows, rare ones fit
# short texts by chance.
COMMON = (
    "cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp874",
    "cp932", "euc_jp", "gb18030", "big5", "cp949", "mac_roman",
)  # fmt: skip
BAD = "duckweed.bad"
codecs.register_error(BAD, lambda error: ("\udcff", error.end))  # type: ignore[attr-defined]


def as_utf8(stream: BinaryIO, encoding: str) -> BinaryIO:
    """`stream` as UTF-8 without its mark. What cannot be decoded becomes a byte 0xFF, which UTF-8
    never has: so the text that holds it is found and left out as in a file that was UTF-8 at once."""
    head = stream.read(4)
    for mark, name in MARKS:
        if head.startswith(mark):
            head, encoding = head.removeprefix(mark), name
            break
    encoding = codecs.lookup(encoding).name
    joined = _Joined(head, stream)
    if encoding not in ("utf-8", "utf-8-sig"):
        return io.BufferedReader(_Turned(joined, WITHOUT_MARK.get(encoding, encoding)), PIECE)
    return io.BufferedReader(joined, PIECE)


class _Joined(io.RawIOBase):
    """What was read of a stream already, then its rest."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._head or self._rest.read(len(buffer))
        self._head = data[len(buffer) :]
        buffer[: len(data)] = data[: len(buffer)]
        return min(len(data), len(buffer))


class _Turned(io.RawIOBase):
    """A stream of another encoding as UTF-8."""

    def __init__(self, stream: io.RawIOBase, encoding: str) -> None:
        self._stream = io.BufferedReader(stream, PIECE)
        self._decoder = codecs.getincrementaldecoder(encoding)(BAD)
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready and not self._ended:
            data = self._stream.read(PIECE)
            self._ended = not data
            text = self._decoder.decode(data, self._ended)
            self._ready = text.encode("utf-8", "surrogateescape")
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size


def advice(data: bytes) -> str:
    """What to do about `data`, which is no UTF-8 or holds a zero byte: which encoding it looks
    like and the option for it; "" if it looks like no text at all."""
    if b"\0" in data:
        wide = _wide(data[:SAMPLE])
        return f"looks like {wide}; if so, read it with --encoding {wide}" if wide else ""
    names = guesses(_around(data))
    if not names:
        return "if you know its encoding, read it with --encoding NAME"
    if names[0] == UTF8:
        return "some bytes of it are damaged"
    others = f" (or {', '.join(names[1:3])})" if names[1:] else ""
    return f"looks like {names[0]}{others}; if so, read it with --encoding {names[0]}"


def guesses(data: bytes) -> list[str]:
    """The encodings of old that `data` looks like, by its letters and their frequencies, the
    likeliest first; UTF8 alone where most characters beyond ASCII are UTF-8 all the same."""
    from charset_normalizer import from_bytes  # a tenth of a second, and seldom needed

    text = data.decode(errors="replace")
    if sum(not character.isascii() for character in text) > 10 * text.count("\ufffd"):
        return [UTF8]
    found = list(from_bytes(data, cp_isolation=[*COMMON]))
    names = [match.encoding for match in found]
    for match in found:
        # Of those that fit as well as the best, the most common one of all.
        if (
            COMMON[0] in (match.encoding, *match.could_be_from_charset)
            and match.chaos <= found[0].chaos
            and match.coherence >= found[0].coherence
        ):
            names = [COMMON[0], *(name for name in names if name != COMMON[0])]
            break
    return [name.replace("_", "-") for name in names]


def _wide(data: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, by where their zero bytes are; None for what is no text."""
    zeros = [data[place::4].count(0) / max(1, len(data) // 4) for place in range(4)]
    for name, low, high in (
        ("utf-32-le", (0,), (2, 3)),
        ("utf-32-be", (3,), (0, 1)),
        ("utf-16-le", (0, 2), (1, 3)),
        ("utf-16-be", (1, 3), (0, 2)),
    ):
        if all(zeros[i] < 0.02 for i in low) and all(zeros[i] > 0.2 for i in high):
            try:
                codecs.getincrementaldecoder(name)().decode(data)
            except UnicodeDecodeError:
                continue
            return name
    return None


def _around(data: bytes) -> bytes:
    """A sample of `data` around its first byte that is no UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return data[max(0, error.start - SAMPLE // 2) :][:SAMPLE]
    return data[:SAMPLE]
