"""Copies of the ledger: a few from the leader, the others from peers, and wrong from nobody."""

import asyncio
import random

import msgspec
import pytest
import zstandard

from bench.scale.ledger_copy import LEADER, Crowd, of_round
from duckweed.net.framing import LinkError
from duckweed.swarm.node import relay_tree, replica
from duckweed.swarm.node.relay_tree import FANOUT, RelayTree
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.ledger import PAGE_LIMIT, decoded, encoded

PEERS = 30


@pytest.fixture
def crowd(tmp_path, monkeypatch):
    monkeypatch.setattr(replica, "WORTH", 4000)
    draw = random.Random(1)
    made = Crowd(tmp_path, PEERS, draw)
    asyncio.run(made.begin())
    made.append(of_round(0, PEERS, draw))
    made.sent.clear()
    return made


def page(crowd):
    return len(crowd.node.replica._packed(1 + PEERS, crowd.ledger.number))


def test_the_leader_gives_a_round_a_few_times_and_no_peer_more_often(crowd):
    asyncio.run(crowd.pull_all())
    assert crowd.heads() == {crowd.ledger.head}
    referrals = 600 * PEERS
    assert FANOUT * page(crowd) < crowd.sent[LEADER.id] < FANOUT * page(crowd) + referrals
    others = [x for key, x in crowd.sent.items() if key != LEADER.id]
    assert sum(x > page(crowd) for x in others) == -(-(PEERS - FANOUT) // FANOUT)
    assert max(others) < (FANOUT + 1) * page(crowd)


def test_peers_that_give_nothing_or_wrong_entries_keep_nobody_from_a_copy(crowd):
    keys = [x.id for x in crowd.keys]
    crowd.silent.add(keys[0])
    liar = crowd.copies[keys[1]]

    def forged(question):
        rows = crowd.ledger.rows(question.number + 1, 1 << 20, crowd.ledger.number)
        wrong = [msgspec.structs.replace(x, body=x.body.replace("20480", "99999")) for x in rows]
        return m.LedgerEntries(0, question.number, question.head, True, 0), encoded(wrong)

    liar.copied = forged
    asyncio.run(crowd.pull_all())
    assert crowd.heads() == {crowd.ledger.head}
    assert not any(copy.fault for copy in crowd.copies.values())


def test_a_peer_that_cannot_be_reached_only_takes():
    tree = RelayTree()
    hidden = [m.PeerAddress(f"{n:064x}", []) for n in range(20)]
    assert tree.source(5, hidden[0], 0) is None
    shown = [m.PeerAddress(f"{99 + n:064x}", ["127.0.0.1:1"]) for n in range(FANOUT)]
    assert [tree.source(5, x, 0) for x in shown] == [None] * FANOUT
    sources = [tree.source(5, x, 0) for x in hidden[1:]]
    assert {x.key for x in sources} == {x.key for x in shown}


def test_who_got_nothing_gets_it_from_the_leader_and_who_got_a_part_asks_the_peer_again():
    tree = RelayTree()
    peers = [m.PeerAddress(f"{n:064x}", ["127.0.0.1:1"]) for n in range(FANOUT + 1)]
    for peer in peers[:-1]:
        assert tree.source(9, peer, 0) is None
    assert tree.source(9, peers[-1], 0) == peers[0]
    assert tree.source(9, peers[-1], 4) == peers[0]
    assert tree.source(9, peers[-1], 4) is None
    assert tree.source(12, peers[-1], 4) is None  # the first to ask for what is newer


def test_entries_that_unpack_to_more_than_is_allowed_are_not_unpacked():
    rows = [replica.Row(0, "genesis", 0, "{}", "00")]
    assert decoded(encoded(rows)) == rows
    bomb = zstandard.compress(b"0" * (PAGE_LIMIT + 1))
    endless = zstandard.ZstdCompressor(write_content_size=False).compress(b"0" * 1000)
    for body in (bomb, endless, b"no frame", encoded(rows)[:-1]):
        with pytest.raises(LinkError, match="breaks the protocol"):
            decoded(body)


def test_small_rounds_come_from_the_leader(crowd, monkeypatch):
    monkeypatch.setattr(replica, "WORTH", relay_tree.WORTH)
    asyncio.run(crowd.pull_all())
    assert set(crowd.sent) == {LEADER.id}
