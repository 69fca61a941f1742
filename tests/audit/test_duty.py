"""Audits while a run goes on, in virtual time: who cheats is put out, and nobody else is."""

import contextlib

import msgspec
import numpy as np
import pytest
from fixtures import tiny

from duckweed.audit import draw
from duckweed.audit.claims import Claims, States
from duckweed.audit.findings import Outcome
from duckweed.audit.merges import audit_round
from duckweed.audit.outcomes import unfounded
from duckweed.ledger.entries import AuditEntry
from duckweed.ledger.ledger import Ledger
from duckweed.merge.round import blob_hash
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.round.carried import packed
from duckweed.round.history import RunHistory
from duckweed.run import state as states
from duckweed.run.events import RoundClosed
from duckweed.run.folder import RunFolder
from duckweed.swarm.peer.evidence import Evidence
from duckweed.swarm.protocol.client import QuestionRefused
from duckweed.swarm.protocol.errors import PeerStopped
from duckweed.wire.codec import codec_of

OPEN = {
    "members.join": "open",
    "members.audits": 0.5,
    "rounds.peers": 4,
    "rounds.count": 6,
    "rounds.patience": 60.0,
    "rounds.evaluate": 100,
    "rounds.checkpoint": 1,
    "inner.steps": 1,
    "inner.batch": 1,
    "inner.warmup": 0,
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


def simulation(base, tell=lambda event: None, **changes):
    """A run that begins, or goes on from its last saved state where there is one."""
    spec = tiny.specification(base, OPEN | changes)
    if (folder := RunFolder(base / "runs" / "run")).ledger.exists():
        ground = founding.reopen(folder, spec)
        saved = folder.saved_rounds()[-1]
        state = states.load(folder.state(saved), founding.layout(folder))
    else:
        folder, ground, state = tiny.found(base, "run", spec)
    found = Lenient(
        folder, spec, founding.layout(folder), ground, state, "cpu", step_seconds=1.0, tell=tell
    )
    found.stopped = []
    return found


def audits_of(folder):
    """The audits of a run, by round and peer."""
    with contextlib.closing(Ledger(folder.ledger)) as ledger:
        return {(e.round, e.body.peer): e.body for e in ledger.entries(AuditEntry)}


def simulated(base, prepare=lambda simulation: None, **changes):
    """The run's folder, its audits by round and peer, and the peers that it stopped."""
    it = simulation(base, **changes)
    prepare(it)
    with pytest.MonkeyPatch.context() as patch:  # keys and times are chance, and so who is drawn
        patch.setattr(RunHistory, "beacon", lambda self, number: f"beacon {number}")
        it.run()
    return it.folder, audits_of(it.folder), it.stopped


STOPPED = 2


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A run that is stopped after round STOPPED, and goes on: its folder, its audits, the peers that it stopped,
    and the audits that had ended before it was stopped."""
    base = tmp_path_factory.mktemp("duty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunHistory, "beacon", lambda self, number: f"beacon {number}")
        first = {f"beacon {n}" for n in range(4)}
        patch.setattr(draw, "drawn", lambda beacon, peers, _: peers[:1] if beacon in first else [])
        it = simulation(base)
        with contextlib.closing(it.events()) as events:
            next(x for x in events if isinstance(x, RoundClosed) and x.round == STOPPED)
        before = audits_of(it.folder)
        return *simulated(base), before


def test_honest_work_passes_every_audit_to_the_last_code(honest):
    _, audits, stopped, _ = honest
    ended = [one.outcome for one in audits.values()]
    assert len(ended) == 4
    assert set(ended) == {"passed"}
    found = [v for one in audits.values() for v in one.verdicts.values()]
    assert all(v.fits and "all codes the same" in v.detail for v in found)
    assert stopped == []


def test_a_run_that_is_stopped_goes_on_with_the_audits_that_were_open(honest):
    folder, audits, _, before = honest
    assert before.items() <= audits.items()
    went_on = STOPPED, Claims(folder).rounds[STOPPED].closed.accepted[0]
    assert went_on not in before
    assert audits[went_on].outcome == "passed"


def test_nobody_audits_itself_and_audits_are_paid_as_work(honest):
    folder, audits, _, _ = honest
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
    folder, _, _, _ = honest
    claims = Claims(folder)
    assert claims.said.wrong == []
    states = States(claims)
    found = [one for n in sorted(claims.rounds) for one in audit_round(claims, states, n)]
    assert {one.outcome for one in found} == {Outcome.SAME}


def flipping(simulation, cheat):
    """A peer hands in its codes with their signs flipped."""
    worker, codec = simulation.workers[cheat], codec_of(simulation.spec.wire, simulation.layout)
    honest = worker.compress

    def compress(state, index, trained):
        own = honest(state, index, trained)
        blob = codec.encode(-codec.decode(own.blob, state.shared).values, state.shared).blob
        said = msgspec.structs.replace(own.announcement, blob=blob_hash(blob), size=len(blob))
        return msgspec.structs.replace(own, announcement=said, blob=blob)

    worker.compress = compress


def spoiling(simulation, cheat):
    """A peer hands in honest codes, and carries on what it likes: its next codes would follow from that."""
    worker = simulation.workers[cheat]
    honest = worker.compress

    def compress(state, index, trained):
        made = honest(state, index, trained)
        pending = worker._pending
        chance = np.random.default_rng(state.round)
        pending.residual = chance.normal(size=pending.residual.shape).astype("f4")
        worker._unsaved = packed(pending)
        pending.hash = blob_hash(worker._unsaved)
        said = msgspec.structs.replace(made.announcement, after=pending.hash)
        return msgspec.structs.replace(made, announcement=said)

    worker.compress = compress


def test_who_cheats_is_put_out_and_who_shows_nothing_is_not_waited_for(tmp_path, monkeypatch):
    flips, spoils, hides = 1, 2, 3
    show = Evidence.show

    async def shown(self, round_, wanted):
        if self.home.name != str(hides):
            await show(self, round_, wanted)

    def prepare(simulation):
        flipping(simulation, flips)
        spoiling(simulation, spoils)

    monkeypatch.setattr(Evidence, "show", shown)
    chosen = {"beacon 0": [0, flips, spoils, hides]}
    monkeypatch.setattr(draw, "drawn", lambda beacon, *_: chosen.get(beacon, []))
    # By the mean: what the filter leaves out is not drawn.
    changes = {"merge.rule": "mean", "rounds.peers": 6, "rounds.count": 7}
    folder, audits, stopped = simulated(tmp_path, prepare, **changes)
    outcomes = {at: (one.outcome, one.out) for at, one in audits.items()}
    assert outcomes == {
        (0, flips): ("failed", [flips]),
        (0, spoils): ("failed", [spoils]),
        (0, hides): ("unshown", []),
        (0, 0): ("passed", []),
    }
    assert sorted(stopped) == [flips, spoils]
    claims = Claims(folder)
    assert claims.said.wrong == []
    assert list(unfounded(claims.audits)) == []
    rounds = [claims.rounds[n].closed.accepted for n in sorted(claims.rounds)]
    assert set(rounds[-1]) <= {0, hides, 4, 5}


def test_in_a_run_without_audits_nothing_is_announced_and_nothing_kept(tmp_path):
    folder, audits, _ = simulated(
        tmp_path, **{"members.audits": 0.0, "rounds.count": 2, "rounds.peers": 2}
    )
    assert audits == {}
    claims = Claims(folder)
    said = [x for entry in claims.rounds.values() for x in entry.contributions.values()]
    assert {(x.before, x.after) for x in said} == {("", "")}
    assert [*folder.path.rglob("audit-*"), *folder.path.rglob("shown-*")] == []
