"""The ledger of a run: append-only, hash-chained, signed. One SQLite table that a person can read.

Entry n holds blake3(previous hash, kind, round, body) and the coordinator's signature of that hash,
so that no entry can be changed, dropped or put elsewhere without the chain showing it.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes], bool]

TABLE = """CREATE TABLE IF NOT EXISTS ledger (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, round INTEGER NOT NULL, body TEXT NOT NULL,
    hash TEXT NOT NULL, signature TEXT NOT NULL)"""


class LedgerError(ValueError):
    """The ledger is damaged or was tampered with; the message names the first bad entry."""


class Entry(msgspec.Struct, frozen=True):
    """kind: "genesis", "round" (a closed round), or "state" (the state hash its peers agreed on)."""

    number: int
    kind: str
    round: int
    body: dict[str, Any]
    hash: str
    signature: str


def entry_hash(previous: str, number: int, kind: str, round_: int, body: str) -> str:
    """blake3 of an entry and of the hash before it, 64 hex digits; body: canonical JSON."""
    parts = [previous, number, kind, round_, body]
    return blake3("\n".join(map(str, parts)).encode()).hexdigest()


class Ledger:
    """An open ledger. Every append is on disk before it returns."""

    def __init__(self, path: Path, sign: Sign | None = None) -> None:
        self.path = path
        self._sign = sign
        if not sign and not path.is_file():
            raise LedgerError(f"{path}: no such file; is this the folder of a run?")
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            if sign:
                self._db.execute(TABLE)
            last = self._db.execute("SELECT number, hash FROM ledger ORDER BY number DESC LIMIT 1")
            number, head = last.fetchone() or (-1, "")
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{path}: cannot be read as a ledger: {error}") from error
        self._number: int = number
        self.head: str = head

    def append(self, kind: str, round_: int, body: dict[str, Any]) -> Entry:
        """Add one signed entry and return it."""
        if not self._sign:
            raise LedgerError(f"{self.path}: opened for reading only")
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        number = self._number + 1
        digest = entry_hash(self.head, number, kind, round_, text)
        signature = self._sign(digest.encode()).hex()
        row = (number, kind, round_, text, digest, signature)
        try:
            self._db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise LedgerError(
                f"{self.path}: entry {number} cannot be written: {error}; nothing was lost, make "
                "room or end the other program that writes here, then resume"
            ) from error
        self._number, self.head = number, digest
        return Entry(number, kind, round_, body, digest, signature)

    def entries(self, kind: str | None = None) -> Iterator[Entry]:
        """All entries in order, or those of one kind. Raises LedgerError."""
        for number, name, round_, body, digest, signature in self._rows():
            if kind is None or name == kind:
                yield Entry(number, name, round_, _body(self.path, number, body), digest, signature)

    def verify(self, verify: Verify) -> int:
        """Check the whole chain and every signature; returns the number of entries.

        Raises LedgerError naming the first entry that does not hold. Entries cut off at the end
        leave a chain that holds; that the states on disk are further on gives them away.
        """
        previous, count = "", 0
        for number, kind, round_, body, digest, signature in self._rows():
            if number != count or digest != entry_hash(previous, number, kind, round_, body):
                raise LedgerError(
                    f"{self.path}: entry {number} does not follow from the one before it; "
                    "the ledger was changed after it was written"
                )
            if not verify(digest.encode(), _bytes(signature)):
                raise LedgerError(f"{self.path}: entry {number} is not signed by the coordinator")
            previous, count = digest, count + 1
        return count

    def close(self) -> None:
        self._db.close()

    def _rows(self) -> list[tuple]:
        try:
            return self._db.execute(
                "SELECT number, kind, round, body, hash, signature FROM ledger ORDER BY number"
            ).fetchall()
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{self.path}: damaged: {error}") from error


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except (ValueError, TypeError):  # SQLite lets any type into a column
        return b""


def _body(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except (ValueError, TypeError) as error:
        raise LedgerError(f"{path}: entry {number} is not readable: {error}") from error
