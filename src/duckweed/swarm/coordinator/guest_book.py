"""The book of guests: invitations that were given out, who came by which, who was put out again.

One SQLite file beside the ledger, `guests.db`. The coordinator and `duckweed invite` both write it, at
the same time if need be. It is no part of the run's history: what it decides, the ledger tells.
"""

import hmac
import os
import secrets
import sqlite3
import time
from pathlib import Path

import msgspec

from duckweed.net.timeouts import GUESTS_LOCKED

TABLES = """
CREATE TABLE IF NOT EXISTS invitations (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, secret TEXT NOT NULL, uses INTEGER, expires REAL,
    revoked INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL);
CREATE TABLE IF NOT EXISTS guests (
    key TEXT PRIMARY KEY, invitation TEXT NOT NULL, expelled INTEGER NOT NULL DEFAULT 0);
"""
NAME = 100  # characters of the name of an invitation
EXPELLED = "this peer was put out by the organiser"
PUT_OUT = (
    "this peer was put out by an audit: its work or its verdict was not what it said, or it could not show "
    "its work three times; the run's ledger names the audit (duckweed show)"
)


class GuestBookError(ValueError):
    """There is no such invitation, or it cannot be made like this."""


class Issued(msgspec.Struct, frozen=True):
    """An invitation as the organiser sees it. uses: how many keys may come by it, None: any number;
    expires: Unix time, None: never; came: how many have."""

    id: str
    name: str
    uses: int | None
    expires: float | None
    revoked: bool
    came: int

    def state(self, now: float) -> str:
        """In one word or two: does it still let anybody new in?"""
        if self.revoked:
            return "revoked"
        if self.expires is not None and now > self.expires:
            return "expired"
        return "used up" if self.uses is not None and self.came >= self.uses else "open"


class GuestBook:
    """The open book. Times are those of this machine's clock alone: no peer's clock matters."""

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # it holds secrets
        self._db = sqlite3.connect(path, isolation_level=None, timeout=GUESTS_LOCKED)
        self._db.executescript(TABLES)

    def close(self) -> None:
        self._db.close()

    # --- the organiser

    def issue(self, name: str = "", uses: int | None = None, seconds: float | None = None) -> str:
        """A new invitation; returns its secret, ID.TOKEN. Raises GuestBookError."""
        if uses is not None and uses < 1:
            raise GuestBookError(f"an invitation for {uses} uses would let nobody in")
        if seconds is not None and seconds <= 0:
            raise GuestBookError("an invitation that expires at once would let nobody in")
        if len(name) > NAME or not name.isprintable():
            raise GuestBookError(
                f"the name of an invitation must be one line of at most {NAME} characters that can be seen"
            )
        now = time.time()
        id_, token = secrets.token_hex(3), secrets.token_urlsafe(18)
        expires = None if seconds is None else now + seconds
        self._db.execute(
            "INSERT INTO invitations (id, name, secret, uses, expires, created) VALUES (?,?,?,?,?,?)",
            (id_, name, f"{id_}.{token}", uses, expires, now),
        )
        return f"{id_}.{token}"

    def unlimited(self, name: str) -> str:
        """The secret of an unlimited invitation of that name that is still good; made if there is
        none."""
        found = self._db.execute(
            "SELECT secret FROM invitations WHERE name = ? AND uses IS NULL AND expires IS NULL "
            "AND NOT revoked ORDER BY created",
            (name,),
        ).fetchone()
        return found[0] if found else self.issue(name)

    def adopt(self, secret: str, name: str) -> None:
        """Take over an unlimited invitation of the machine that led before this one."""
        self._db.execute(
            "INSERT OR IGNORE INTO invitations (id, name, secret, created) VALUES (?,?,?,?)",
            (secret.partition(".")[0], name, secret, time.time()),
        )

    def issued(self) -> list[Issued]:
        """All invitations, oldest first."""
        rows = self._db.execute(
            "SELECT id, name, uses, expires, revoked, "
            "(SELECT count(*) FROM guests WHERE invitation = id) "
            "FROM invitations ORDER BY created, id"
        )
        return [Issued(i, n, u, e, bool(r), c) for i, n, u, e, r, c in rows]

    def revoke(self, id_: str, expel: bool = False) -> int:
        """Let nobody new in by it; expel: and put out those who came by it. Returns how many were.

        Raises GuestBookError if there is no such invitation.
        """
        if not self._db.execute("UPDATE invitations SET revoked = 1 WHERE id = ?", (id_,)).rowcount:
            known = ", ".join(one.id for one in self.issued()) or "none"
            raise GuestBookError(f"there is no invitation {id_!r}; given out so far: {known}")
        if not expel:
            return 0
        return self._db.execute(
            "UPDATE guests SET expelled = 1 WHERE invitation = ? AND NOT expelled", (id_,)
        ).rowcount

    # --- the door

    def objection(self, key: str, secret: str) -> str | None:
        """Why the holder of a key may not come in with this secret; None if it may. Who has come by
        an invitation before comes back by it, also after it expired or was used up."""
        came = self._db.execute(
            "SELECT invitation, expelled FROM guests WHERE key = ?", (key,)
        ).fetchone()
        if came and came[1]:
            return EXPELLED
        row = self._db.execute(
            "SELECT id, secret, uses, expires, revoked FROM invitations WHERE id = ?",
            (secret.partition(".")[0],),
        ).fetchone()
        if row is None or not hmac.compare_digest(row[1].encode(), secret.encode()):
            return "this run is private, and the secret of the invitation is not one of its own; ask the organiser for a new one"
        id_, _, uses, expires, revoked = row
        if came and came[0] == id_:
            return None
        if revoked:
            return "this invitation was revoked; ask the organiser for another"
        if expires is not None and time.time() > expires:
            return "this invitation has expired; ask the organiser for another"
        if uses is not None and self._came(id_) >= uses:
            return f"this invitation was good for {uses} and is used up; ask for another"
        return None

    def note(self, key: str, secret: str) -> None:
        """The holder of a key has come in by this secret."""
        id_ = secret.partition(".")[0]
        self._db.execute("INSERT OR IGNORE INTO guests (key, invitation) VALUES (?, ?)", (key, id_))

    def expelled(self) -> set[str]:
        """Keys that were put out."""
        return {key for (key,) in self._db.execute("SELECT key FROM guests WHERE expelled")}

    def version(self) -> int:
        """Changes whenever another process has written into the book."""
        return self._db.execute("PRAGMA data_version").fetchone()[0]

    def _came(self, id_: str) -> int:
        found = self._db.execute("SELECT count(*) FROM guests WHERE invitation = ?", (id_,))
        return found.fetchone()[0]
