"""The ledger of a run: append-only, hash-chained, signed. One SQLite table that a person can read.

Entry n holds blake3(previous hash, kind, round, body) and the signature of that hash by the leader of
its term (duckweed.ledger.leadership), so that no entry can be changed, dropped or moved without the chain
showing it. A copy on another machine takes entries only if chain and signature hold.
"""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
from blake3 import blake3

from duckweed.ledger.entries import (
    B,
    Body,
    GenesisEntry,
    RoundEntry,
    StateEntry,
    SuccessionEntry,
    encode,
)
from duckweed.ledger.leadership import (
    Founder,
    Leadership,
    LeadershipError,
    Verify,
    founded,
    succeeded,
)

Sign = Callable[[bytes], bytes]
T = TypeVar("T")

COLUMNS = ("number", "kind", "round", "body", "hash", "signature")

TABLE = """CREATE TABLE IF NOT EXISTS ledger (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, round INTEGER NOT NULL, body TEXT NOT NULL,
    hash TEXT NOT NULL, signature TEXT NOT NULL)"""


class LedgerError(ValueError):
    """The ledger is damaged or was tampered with; the message names the first bad entry."""


class Entry(msgspec.Struct, Generic[B], frozen=True):
    """An entry of a ledger."""

    number: int
    """Its place in the ledger, from 0."""
    round: int
    """The round that it belongs to; of a campaign's ledger, the generation."""
    body: B
    """What it says; its type is the kind of the entry."""
    hash: str
    """Hash of the entry and of all before it, hex."""
    signature: str
    """Signature of the hash, hex."""

    @property
    def kind(self) -> str:
        """Name of the kind, as in the table."""
        return self.body.kind


class Row(msgspec.Struct, frozen=True, array_like=True):
    """An entry as it is copied from one machine to another, with the fields of `Entry`."""

    number: int
    kind: str
    round: int
    body: str
    """Canonical JSON."""
    signature: str


def entry_hash(previous: str, number: int, kind: str, round_: int, body: str) -> str:
    """blake3 of an entry and of the hash before it, 64 hex digits; body: canonical JSON."""
    parts = [previous, number, kind, round_, body]
    return blake3("\n".join(map(str, parts)).encode()).hexdigest()


class Ledger:
    """An open ledger. Every append is on disk before it returns."""

    def __init__(self, path: Path, sign: Sign | None = None, aside: Path | None = None) -> None:
        """sign: None for a ledger that is only read. aside: a file for entries that are cut off. Raises
        LedgerError."""
        self.path, self._sign, self._aside = path, sign, aside
        self.grown: Callable[[], None] = lambda: None  # called after every change
        if not sign and not path.is_file():
            raise LedgerError(f"{path}: no such file; is this the folder of a run?")
        try:
            self._db = _for_writing(path) if sign else _for_reading(path)
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{path}: cannot be read as a ledger: {error}") from error
        self._find_end()

    def _find_end(self) -> None:
        last = self._select("ORDER BY number DESC LIMIT 1")
        self.number: int = last[0][0] if last else -1
        self.head: str = last[0][4] if last else ""
        self.leadership: Leadership | None = None
        where = "WHERE kind IN ('genesis', 'succession') ORDER BY number"
        for number, kind, _, text, _, _ in self._select(where):
            self.leadership = _leadership(self.path, self.leadership, number, kind, text, None)

    def append(self, round_: int, body: B) -> Entry[B]:
        """Add one signed entry and return it. Raises LedgerError, and ValueError if a number in the body
        is not finite."""
        if not self._sign:
            raise LedgerError(f"{self.path}: opened for reading only")
        text, number = encode(body), self.number + 1
        digest = entry_hash(self.head, number, body.kind, round_, text)
        signature = self._sign(digest.encode()).hex()
        leadership = _leadership(self.path, self.leadership, number, body.kind, text, None)
        self._insert(Row(number, body.kind, round_, text, signature), digest)
        self.leadership = leadership
        self.grown()
        return Entry(number, round_, body, digest, signature)

    def _insert(self, row: Row, digest: str) -> None:
        values = (row.number, row.kind, row.round, row.body, digest, row.signature)
        try:
            self._db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?)", values)
        except sqlite3.Error as error:
            raise LedgerError(
                f"{self.path}: entry {row.number} cannot be written: {error}; nothing was lost, make "
                "room or end the other program that writes here, then resume"
            ) from error
        self.number, self.head = row.number, digest

    # --- copies

    def hash_at(self, number: int) -> str | None:
        """Hash of an entry, "" before the first one, None where there is none."""
        if number == -1:
            return ""
        found = self._select("WHERE number = ?", number)
        return found[0][4] if found else None

    def rows(self, start: int, size: int, last: int) -> list[Row]:
        """Entries `start` to `last`, as many as fit into `size` bytes, but one at least."""
        found: list[Row] = []
        for number, kind, round_, body, _, signature in self._select(
            "WHERE number BETWEEN ? AND ? ORDER BY number LIMIT 1000", start, last
        ):
            size -= len(body) + 200
            if found and size < 0:
                break
            found.append(Row(number, kind, round_, body, signature))
        return found

    def take(self, row: Row, verify: Verify) -> None:
        """Add an entry that another machine has written. Raises LedgerError if it does not follow on
        the last one here or is not signed by the leader."""
        digest = entry_hash(self.head, row.number, row.kind, row.round, row.body)
        leadership = _leadership(self.path, self.leadership, row.number, row.kind, row.body, verify)
        signed = leadership.signed(row.number, digest, row.signature, verify)
        if row.number != self.number + 1 or not signed:
            raise LedgerError(
                f"{self.path}: entry {row.number} of another machine does not follow on entry "
                f"{self.number} here, or is not signed by the leader; it was not taken"
            )
        self._insert(row, digest)
        self.leadership = leadership
        self.grown()

    def cut(self, last: int) -> int:
        """Remove the entries after `last`, which nobody has acknowledged; they are kept in the file
        aside. Returns how many there were."""
        gone = self._select("WHERE number > ? ORDER BY number", last)
        if gone and self._aside:
            with self._aside.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in gone)
        self._db.execute("DELETE FROM ledger WHERE number > ?", (last,))
        self._find_end()
        self.grown()
        return len(gone)

    # --- reading

    def entries(self, *kinds: type[B]) -> Iterator[Entry[B]]:
        """The entries of these kinds in order. Raises LedgerError."""
        known = {kind.kind: kind for kind in kinds}
        marks = ", ".join("?" * len(known))
        for row in self._select(f"WHERE kind IN ({marks}) ORDER BY number", *known):
            yield self._read(row, known[row[1]])

    def closed_rounds(self) -> int:
        """How many rounds are closed. Raises LedgerError."""
        last = self.last_round(RoundEntry)
        return 0 if last is None else last + 1

    def last_round(self, kind: type[Body]) -> int | None:
        """The highest round that has an entry of a kind, None where there is none: a state may be agreed on after
        those of later rounds. Raises LedgerError."""
        found = self._select("WHERE kind = ? ORDER BY round DESC LIMIT 1", kind.kind)
        return found[0][2] if found else None

    def agreed_states(self) -> dict[int, str]:
        """Round -> hash of the state that it begins from. Raises LedgerError."""
        agreed = {}
        for entry in self.entries(GenesisEntry, StateEntry):
            match entry.body:
                case GenesisEntry(state=digest) | StateEntry(hash=digest):
                    agreed[entry.round] = digest
        return agreed

    def _read(self, row: tuple, kind: type[B]) -> Entry[B]:
        number, _, round_, text, digest, signature = row
        return Entry(number, round_, _decoded(self.path, number, text, kind), digest, signature)

    def exported(self) -> Iterator[bytes]:
        """Every entry as a line of JSON: number, kind, round, body, hash, signature. Raises LedgerError."""
        for row in self._rows():
            entry = dict(zip(COLUMNS, row, strict=True))
            yield msgspec.json.encode(entry | {"body": msgspec.Raw(entry["body"].encode())})

    def verify(self, verify: Verify) -> int:
        """Check the whole chain and every signature; returns the number of entries.

        Raises LedgerError naming the first entry that does not hold. Entries cut off at the end
        leave a chain that holds; that the states on disk are further on gives them away.
        """
        previous, count, leadership = "", 0, None
        for number, kind, round_, body, digest, signature in self._rows():
            if number != count or digest != entry_hash(previous, number, kind, round_, body):
                raise LedgerError(
                    f"{self.path}: entry {number} does not follow from the one before it; "
                    "the ledger was changed after it was written"
                )
            leadership = _leadership(self.path, leadership, number, kind, body, verify)
            if not leadership.signed(number, digest, signature, verify):
                raise LedgerError(f"{self.path}: entry {number} is not signed by the leader")
            previous, count = digest, count + 1
        return count

    def close(self) -> None:
        self._db.close()

    def _rows(self) -> list[tuple]:
        return self._select("ORDER BY number")

    def _select(self, which: str, *values: int | str) -> list[tuple]:
        try:
            return self._db.execute(
                f"SELECT {', '.join(COLUMNS)} FROM ledger {which}", values
            ).fetchall()
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{self.path}: damaged: {error}") from error


def _for_writing(path: Path) -> sqlite3.Connection:
    """Raises sqlite3.Error."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute(TABLE)
    return db


def _for_reading(path: Path) -> sqlite3.Connection:
    """Nothing beside the ledger is written, so that it can be read where nothing can be. Raises
    sqlite3.Error."""
    log = path.with_name(path.name + "-wal")
    if not log.exists():  # nobody writes: SQLite need not lock the file
        return sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        db.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.OperationalError:
        # What a crash left on a disk that cannot be written: SQLite takes it in, in a copy.
        db.close()
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place) / path.name
            for file in (path, log):
                shutil.copyfile(file, copy.with_name(file.name))
            db = sqlite3.connect(":memory:", isolation_level=None)
            with closing(sqlite3.connect(copy)) as whole:
                whole.backup(db)
    return db


def _leadership(
    path: Path,
    leadership: Leadership | None,
    number: int,
    kind: str,
    text: str,
    verify: Verify | None,
) -> Leadership:
    """The leadership after an entry, whose leader has signed the entry; text: its body. Raises LedgerError."""
    try:
        if number == 0 and kind == "genesis":
            return founded(_decoded(path, number, text, Founder))
        if leadership is None or kind == "genesis":
            raise LeadershipError("a ledger begins with one genesis entry")
        if kind != SuccessionEntry.kind:
            _decoded(path, number, text, dict)
            return leadership
        return succeeded(leadership, number, _decoded(path, number, text, SuccessionEntry), verify)
    except LeadershipError as error:
        raise LedgerError(f"{path}: entry {number}: {error}") from error


def _decoded(path: Path, number: int, text: str, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=type_)
    except (msgspec.DecodeError, TypeError) as error:  # TypeError: SQLite stores any type
        raise LedgerError(f"{path}: entry {number} is not readable: {error}") from error
