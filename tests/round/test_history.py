"""The history as it is kept while a run goes on, and as it is read again after a restart."""

import random

import pytest
from fixtures.golden import LAYOUT, announce, numbers
from fixtures.pretended import SPEC, genesis

from duckweed.ledger.entries import AuditEntry, Closed, Standing, Verdict
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import Identity
from duckweed.round import history as room
from duckweed.round.history import RunHistory
from duckweed.run import folder as folders

KEY = Identity(b"k" * 32)
WANTED = numbers(1, LAYOUT.total)


def facts(history):
    """All that it tells."""
    rounds = range(history.number + 1)
    told = {
        name: value for name, value in vars(history).items() if name not in ("ledger", "blocks")
    }
    entries, counted = (
        [history.entry_of(n) for n in rounds],
        [[*history.counted(n)] for n in rounds],
    )
    return told | {"entries": entries, "counted": counted, "left": vars(history.blocks)}


@pytest.fixture
def place(tmp_path):
    folder = folders.create(tmp_path, "run")
    ledger = Ledger(folder.ledger, KEY.sign)
    ledger.append(0, genesis(SPEC, KEY.id))
    return folder, ledger


def test_what_is_read_after_a_restart_is_what_was_kept(place, monkeypatch):
    monkeypatch.setattr(room, "REPLAYS", 3)
    folder, ledger = place
    chance, history = random.Random(5), RunHistory(folder, SPEC, LAYOUT, ledger)
    for number in range(12):
        if number % 4 == 0:
            assert history.admit(f"{number:064}", number) == number // 4
        peers = range(len(history.peers))
        assigned = {peer: history.blocks.take(chance.randint(1, 4)) for peer in peers}
        said = [
            announce(number, peer, f"{number} {peer}".encode(), WANTED, 256 * span.steps)
            for peer, span in assigned.items()
        ]
        accepted = [peer for peer in peers if chance.random() < 0.6]
        closed = Closed(
            number,
            accepted,
            [said[peer].blob for peer in accepted],
            [1] * len(accepted),
            {peer: "too late" for peer in peers if peer not in accepted},
            None,
            [chance.random() for _ in LAYOUT.names],
            {peer: Standing(256 * number, chance.randrange(999)) for peer in accepted},
        )
        history.close(closed, assigned, said, dict.fromkeys(peers, b"s" * 64))
        history.agree(number + 1, f"{number + 1:064}", len(peers))
        if number % 3 == 2:
            found = {0: Verdict(number != 11, "seen", "00" * 64)}
            ended = AuditEntry(1, "passed", 256, number + 1, found, [2] if number == 11 else [])
            history.audit(number, ended)
        again = RunHistory(folder, SPEC, LAYOUT, Ledger(folder.ledger))
        assert facts(again) == facts(history)
        assert again.memory == history.memory
        assert history.closed[number] == closed
        assert set(history.recent_blobs.values()) == set(range(max(0, number - 2), number + 1))
    assert history.number == 12
    assert ledger.number == history.entry_of(11) + 2
    assert [round_ for round_, _ in history.audits()] == [2, 5, 8, 11]
    assert history.out == {2}
    assert history.entry_of(12) == -1
    assert history.closed[11].shared == history.shared
