"""The ledger: what is written stays, and whoever changes it is found out."""

import json
import sqlite3
import subprocess
import sys

import msgspec
import pytest

from duckweed.ledger.entries import Body
from duckweed.ledger.ledger import Ledger, LedgerError, entry_hash


class Founded(Body, frozen=True):
    kind = "genesis"
    state: str


class Closed(Body, frozen=True):
    kind = "round"
    accepted: list[int] = msgspec.field(default_factory=list)
    loss: float = 0.5


def sign(message: bytes) -> bytes:
    return b"signed:" + message[::-1]


def verify(key: str, message: bytes, signature: bytes) -> bool:
    return signature == sign(message)


@pytest.fixture
def path(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", sign)
    ledger.append(0, Founded("00"))
    for n in range(4):
        ledger.append(n, Closed([0, 1], 3.5 - n))
    ledger.close()
    return ledger.path


def alter(path, *statements):
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(*statement) if isinstance(statement, tuple) else db.execute(statement)
    db.close()


def check(path):
    ledger = Ledger(path)
    try:
        return ledger.verify(verify)
    finally:
        ledger.close()


def test_an_untouched_ledger_holds(path):
    assert check(path) == 5
    ledger = Ledger(path)
    assert [e.round for e in ledger.entries(Closed)] == [0, 1, 2, 3]
    (first,) = ledger.entries(Founded)
    assert (first.number, first.kind, first.body) == (0, "genesis", Founded("00"))


def test_the_chain_is_the_same_on_every_machine():
    first = entry_hash("", 0, "genesis", 0, "{}")
    assert first == "a4a6ac941266852de5e543a2a8dcb37a689079708f5b8cd1cb2616c063045117"
    assert (
        entry_hash(first, 1, "round", 0, "{}")
        == "3f3360b6e139e36f8fdae730207c29fd8b7c48952b1e3f21e5867d8dbc7ba957"
    )


@pytest.mark.parametrize("number", [0, 2, 4])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("number", 77),
        ("kind", "state"),
        ("round", 99),
        ("round", "one"),
        ("body", '{"accepted":[0,1],"loss":9.5}'),
        ("body", b"\xff\xfe"),
        ("body", 5),
        ("hash", "0" * 64),
        ("hash", b"\x00"),
        ("signature", "00" * 64),
        ("signature", "not hex"),
        ("signature", b"\x01\x02"),
    ],
)
def test_tampering_with_any_column_of_any_entry_shows(path, number, column, value):
    alter(path, (f"UPDATE ledger SET {column} = ? WHERE number = {number}", (value,)))
    with pytest.raises(LedgerError, match=r"ledger\.db.*entry"):
        check(path)


def test_text_that_is_not_utf8_is_damage(path):
    alter(path, "UPDATE ledger SET body = CAST(x'fffe' AS TEXT) WHERE number = 1")
    with pytest.raises(LedgerError, match="damaged"):
        check(path)


def test_an_entry_rewritten_with_its_hash_lacks_the_signature(path):
    """Someone without the coordinator's key recomputes every hash that follows."""
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT number, kind, round, body FROM ledger").fetchall()
        previous = ""
        for number, kind, round_, body in rows:
            body = body.replace("2.5", "0.1")
            previous = entry_hash(previous, number, kind, round_, body)
            db.execute("UPDATE ledger SET body=?, hash=? WHERE number=?", (body, previous, number))
    db.close()
    with pytest.raises(LedgerError, match="entry 2 is not signed"):
        check(path)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_dropped_entry_shows(path, number):
    alter(path, f"DELETE FROM ledger WHERE number = {number}")
    with pytest.raises(LedgerError, match="does not follow"):
        check(path)


def test_a_dropped_entry_shows_when_the_rest_is_renumbered(path):
    alter(
        path,
        "DELETE FROM ledger WHERE number = 2",
        "UPDATE ledger SET number = number - 1 WHERE number > 2",
    )
    with pytest.raises(LedgerError, match="entry 2"):
        check(path)


def test_swapped_entries_show(path):
    alter(
        path,
        "UPDATE ledger SET number = 90 WHERE number = 2",
        "UPDATE ledger SET number = 2 WHERE number = 3",
        "UPDATE ledger SET number = 3 WHERE number = 90",
    )
    with pytest.raises(LedgerError, match="entry 2"):
        check(path)


def test_a_truncated_or_overwritten_database_is_refused(path):
    whole = path.read_bytes()
    for size in (1, 100, 4096, len(whole) - 4096, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(LedgerError, match=r"ledger\.db"):
            check(path)
    path.write_bytes(b"this is not a database" * 400)
    with pytest.raises(LedgerError, match="damaged: file is not a database"):
        check(path)


def test_a_missing_or_empty_ledger_is_refused_and_not_created(tmp_path):
    with pytest.raises(LedgerError, match="no such file"):
        Ledger(tmp_path / "ledger.db")
    assert not (tmp_path / "ledger.db").exists()
    (tmp_path / "ledger.db").touch()
    with pytest.raises(LedgerError):
        check(tmp_path / "ledger.db")


def test_a_reader_sees_what_a_writer_adds_and_cannot_write(path):
    writer, reader = Ledger(path, sign), Ledger(path)
    assert len(list(reader.entries(Founded, Closed))) == 5
    entry = writer.append(4, Closed())
    assert list(reader.entries(Closed))[-1] == entry
    assert reader.verify(verify) == 6
    with pytest.raises(LedgerError, match="reading only"):
        reader.append(5, Closed())
    reader.close()
    writer.close()


def test_a_second_writer_is_refused_and_the_chain_stays_whole(path):
    one, two = Ledger(path, sign), Ledger(path, sign)
    one.append(4, Closed())
    with pytest.raises(LedgerError, match="entry 5 cannot be written"):
        two.append(4, Closed([2]))
    assert one.verify(verify) == 6


def test_a_body_that_is_not_json_leaves_no_trace(path):
    ledger = Ledger(path, sign)
    with pytest.raises(ValueError, match="JSON"):
        ledger.append(4, Closed(loss=float("nan")))
    ledger.append(4, Closed(loss=1.0))
    assert ledger.verify(verify) == 6


KILLED = """
import os, sys
from pathlib import Path
from duckweed.ledger.entries import StateEntry
from duckweed.ledger.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), lambda message: b"signed:" + message[::-1])
for n in range(4, 9):
    print(ledger.append(n, StateEntry("00", 3)).number, flush=True)
os.kill(os.getpid(), 9)
"""


def test_nothing_that_was_appended_is_lost_when_the_process_is_killed(path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True)
    assert done.returncode == -9
    assert done.stdout.split()[-1] == b"9"
    ledger = Ledger(path, sign)
    assert ledger.verify(verify) == 10
    assert ledger.append(9, Closed()).number == 10
    assert ledger.verify(verify) == 11


def test_the_ledger_is_one_table_that_anyone_can_read(path):
    with sqlite3.connect(path) as db:
        (body,) = db.execute("SELECT body FROM ledger WHERE kind='round' AND round=2").fetchone()
    db.close()
    assert json.loads(body) == {"accepted": [0, 1], "loss": 1.5}
