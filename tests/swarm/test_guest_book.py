"""Invitations let in whom they were meant for, as often and as long as they were meant to."""

import sqlite3
import stat

import pytest

from duckweed.swarm.coordinator import guest_book as room
from duckweed.swarm.coordinator.guest_book import EXPELLED, GuestBook, GuestBookError

ANN, BEN, CAT = "aa" * 32, "bb" * 32, "cc" * 32


@pytest.fixture
def book(tmp_path):
    return GuestBook(tmp_path / "guests.db")


def come(book, key, secret):
    objection = book.objection(key, secret)
    if objection is None:
        book.note(key, secret)
    return objection


def test_an_invitation_of_the_machine_that_led_before_opens_the_door_here_too(book, tmp_path):
    secret = GuestBook(tmp_path / "before.db").unlimited("serve")
    assert "not one of its own" in book.objection(ANN, secret)
    book.adopt(secret, "family")
    book.adopt(secret, "family")
    assert come(book, ANN, secret) is None
    assert [one.name for one in book.issued()] == ["family"]


def test_only_a_secret_from_the_book_opens_the_door(book):
    secret = book.issue("Ann")
    assert come(book, ANN, secret) is None
    for wrong in ("", "x", secret[:-1], secret + "x", secret.partition(".")[0] + ".", "é"):
        assert "not one of its own" in book.objection(BEN, wrong)


@pytest.mark.parametrize("name", ["x" * 10_000, "Ann\x1b[31m", "two\nlines"])
def test_a_name_that_would_spoil_the_list_is_refused(book, name):
    with pytest.raises(GuestBookError, match="one line of at most 100 characters"):
        book.issue(name)
    assert not book.issued()


def test_a_limited_invitation_counts_keys_and_not_visits(book):
    secret = book.issue(uses=2)
    for key in (ANN, BEN, ANN, BEN):
        assert come(book, key, secret) is None
    assert "used up" in come(book, CAT, secret)
    assert come(book, ANN, secret) is None
    (one,) = book.issued()
    assert (one.came, one.state(0)) == (2, "used up")


def test_an_expired_invitation_lets_back_in_who_has_come_by_it(book, monkeypatch):
    secret = book.issue(seconds=3600)
    assert come(book, ANN, secret) is None
    now = room.time.time()
    monkeypatch.setattr(room.time, "time", lambda: now + 3601)
    assert "expired" in come(book, BEN, secret)
    assert come(book, ANN, secret) is None


def test_revoked_it_lets_nobody_new_in_and_expelled_nobody_at_all(book):
    first, second = book.issue("first"), book.issue("second")
    assert come(book, ANN, first) is None
    assert book.revoke(first.partition(".")[0]) == 0
    assert "revoked" in come(book, BEN, first)
    assert come(book, ANN, first) is None
    assert book.revoke(first.partition(".")[0], expel=True) == 1
    assert come(book, ANN, first) == come(book, ANN, second) == EXPELLED
    assert book.expelled() == {ANN}
    assert come(book, BEN, second) is None


@pytest.mark.parametrize("given", [{"uses": 0}, {"uses": -1}, {"seconds": 0}])
def test_an_invitation_that_lets_nobody_in_is_not_made(book, given):
    with pytest.raises(GuestBookError, match="nobody"):
        book.issue(**given)
    assert book.issued() == []


def test_revoking_what_was_never_given_out_is_said_with_what_was(book):
    id_ = book.issue().partition(".")[0]
    with pytest.raises(GuestBookError, match=id_):
        book.revoke("nonsense")


def test_the_standing_invitation_is_the_same_until_it_is_revoked(book):
    secret = book.unlimited("serve")
    assert book.unlimited("serve") == secret
    book.revoke(secret.partition(".")[0])
    assert book.unlimited("serve") != secret


def test_another_process_sees_what_was_written_and_nobody_else_can_read_it(book, tmp_path):
    other = GuestBook(tmp_path / "guests.db")
    version = other.version()
    secret = book.issue()
    assert other.version() != version
    assert come(other, ANN, secret) is None
    assert stat.S_IMODE((tmp_path / "guests.db").stat().st_mode) == 0o600


def test_a_file_that_is_no_book_is_an_error(tmp_path):
    (tmp_path / "guests.db").write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        GuestBook(tmp_path / "guests.db")
