"""Audits while a run goes on, in virtual time: who cheats is put out, and nobody else is."""

import contextlib

import msgspec
import numpy as np
import pytest
from fixtures import tiny

from duckweed.audit.claims import Claims, States
from duckweed.audit.findings import Outcome
from duckweed.audit.merges import audit_round
from duckweed.ledger.entries import AuditEntry
from duckweed.ledger.ledger import Ledger
from duckweed.merge.round import blob_hash
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.round.history import RunHistory
from duckweed.swarm.peer.auditor import Auditor
from duckweed.swarm.protocol.client import QuestionRefused
from duckweed.swarm.protocol.errors import PeerStopped
from duckweed.wire.codec import codec_of

PEERS = 5
OPEN = {
    "members.join": "open",
    "members.audits": 0.5,
    "rounds.peers": PEERS,
    "rounds.count": 9,
    "rounds.patience": 60.0,
    "inner.precision": "fp32",
}


class Lenient(Simulation):
    """A simulated run that goes on without the peers that are put out."""

    async def _take_part(self, n, key, network, to):
        with contextlib.suppress(PeerStopped, QuestionRefused):
            return await super()._take_part(n, key, network, to)
        self.stopped.append(n)
        return self.state

    stopped: list[int]


def simulated(base, prepare=lambda simulation: None, **changes):
    """The run's folder, its audits by round and peer, and the peers that it stopped."""
    spec = tiny.specification(base, OPEN | changes)
    folder, ground, state = tiny.found(base, "run", spec)
    simulation = Lenient(
        folder, spec, founding.layout(folder), ground, state, "cpu", step_seconds=1.0
    )
    simulation.stopped = []
    prepare(simulation)
    with pytest.MonkeyPatch.context() as patch:  # keys and times are chance, and so who is drawn
        patch.setattr(RunHistory, "beacon", lambda self, number: f"beacon {number}")
        simulation.run()
    with contextlib.closing(Ledger(folder.ledger)) as ledger:
        audits = {(e.round, e.body.peer): e.body for e in ledger.entries(AuditEntry)}
    return folder, audits, simulation.stopped


def put_out(audits):
    return {peer for one in audits.values() for peer in one.out}


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("duty"))


def test_honest_work_passes_every_audit_to_the_last_code(honest):
    _, audits, stopped = honest
    assert len(audits) >= 4
    assert {one.outcome for one in audits.values()} == {"passed"}
    found = [v for one in audits.values() for v in one.verdicts.values()]
    assert all(v.fits and "all codes the same" in v.detail for v in found)
    assert stopped == []


def test_nobody_audits_itself_and_audits_are_paid_as_work(honest):
    folder, audits, _ = honest
    assert all(one.peer not in one.verdicts for one in audits.values())
    claims = Claims(folder)
    trained = sum(
        said.tokens
        for n, entry in claims.rounds.items()
        for peer, said in entry.contributions.items()
        if peer in entry.closed.accepted
    )
    paid = sum(one.tokens * len(one.verdicts) for one in audits.values())
    memory = claims.memory(max(claims.rounds) + 1)
    assert sum(x.work for x in memory.values()) == trained + paid


def test_anybody_computes_the_weights_of_rounds_with_audits_between_them_again(honest):
    folder, _, _ = honest
    claims = Claims(folder)
    assert claims.said.wrong == []
    states = States(claims)
    found = [one for n in sorted(claims.rounds) for one in audit_round(claims, states, n)]
    assert {one.outcome for one in found} == {Outcome.SAME}


def another_s(simulation):
    """Peer 1 hands in, with some codes changed, what peer 0 has made."""
    made = {}
    codec = codec_of(simulation.spec.wire, simulation.layout)
    for n in (0, 1):
        worker = simulation.workers[n]
        honest = worker.compress

        def compress(state, index, trained, n=n, honest=honest):
            own = honest(state, index, trained)
            values = codec.decode(own.blob, state.shared).values
            if n == 0:
                made[state.round] = values
                return own
            values = made.get(state.round, -values).copy()
            values[:50] = 0
            blob = codec.encode(values, state.shared).blob
            said = msgspec.structs.replace(own.announcement, blob=blob_hash(blob), size=len(blob))
            return msgspec.structs.replace(own, announcement=said, blob=blob)

        worker.compress = compress


def spoiling(simulation):
    """Peer 1 hands in honest codes, and carries on what it likes: its next codes would follow from that."""
    from duckweed.round.carried import packed

    worker = simulation.workers[1]
    honest = worker.compress

    def compress(state, index, trained):
        made = honest(state, index, trained)
        pending = worker._pending
        pending.residual = np.random.default_rng(1).normal(size=pending.residual.shape).astype("f4")
        worker._unsaved = packed(pending)
        pending.hash = blob_hash(worker._unsaved)
        said = msgspec.structs.replace(made.announcement, after=pending.hash)
        return msgspec.structs.replace(made, announcement=said)

    worker.compress = compress


@pytest.mark.parametrize("cheat", [another_s, spoiling])
def test_a_peer_that_cheats_in_every_round_is_put_out_and_nobody_else(tmp_path, cheat):
    # By the mean: what the filter leaves out is not drawn.
    folder, audits, stopped = simulated(tmp_path, cheat, **{"merge.rule": "mean"})
    assert put_out(audits) == {1}
    assert stopped == [1]
    failed = next(one for one in audits.values() if one.outcome == "failed")
    assert 3 <= len(failed.verdicts) <= 4
    assert not any(v.fits for v in failed.verdicts.values())
    claims = Claims(folder)
    last = max(claims.rounds)
    assert 1 not in claims.rounds[last].closed.accepted
    assert len(claims.rounds[last].closed.accepted) >= 2


def test_an_auditor_that_lies_is_found_by_others_and_put_out(tmp_path, monkeypatch):
    honest = Auditor._found

    async def found(self, task):
        done, wrong, detail = await honest(self, task)
        return done, ["so I say"] if self.lies else wrong, detail

    begun = Auditor.__init__

    def begin(self, worker, *rest):
        begun(self, worker, *rest)
        self.lies = worker.peer == 2

    monkeypatch.setattr(Auditor, "_found", found)
    monkeypatch.setattr(Auditor, "__init__", begin)
    _, audits, stopped = simulated(tmp_path, **{"rounds.peers": 6})
    assert put_out(audits) == {2}
    assert stopped == [2]
    assert all(one.outcome != "failed" for one in audits.values())


def test_a_peer_that_does_not_show_what_it_carries_has_failed(tmp_path, monkeypatch):
    from duckweed.swarm.peer.peer import Peer

    honest = Peer._show

    async def show(self, blobs):
        if self.worker.peer != 1:
            await honest(self, blobs)
            return
        for path in self.home.glob("residual-*"):
            path.unlink()
        await honest(self, blobs)

    monkeypatch.setattr(Peer, "_show", show)
    _, audits, stopped = simulated(tmp_path)
    assert put_out(audits) == {1}
    assert stopped == [1]


def test_in_a_run_without_audits_nothing_is_announced_and_nothing_kept(tmp_path):
    folder, audits, _ = simulated(tmp_path, **{"members.audits": 0.0, "rounds.count": 2})
    assert audits == {}
    claims = Claims(folder)
    said = [x for entry in claims.rounds.values() for x in entry.contributions.values()]
    assert {(x.before, x.after) for x in said} == {("", "")}
    assert list(folder.path.rglob("audit-*")) == []
