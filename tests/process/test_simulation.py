"""A run in one process: the same bits every time, the golden losses, the virtual clock."""

import json
import os

import msgspec
import numpy as np
import pytest
from fixtures import tiny
from fixtures.golden import CASES, training_trajectory
from fixtures.golden import PLACE as GOLDEN

from duckweed.ledger.entries import RoundEntry, StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import verify
from duckweed.net.link_spec import LinkSpec, parse_links
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run import state as states
from duckweed.run.events import RoundClosed


def simulated(base, name="run", changes=None, **more):
    spec = tiny.specification(base, {"rounds.patience": 60.0} | (changes or {}))
    folder, ground, state = tiny.found(base, name, spec)
    simulation = Simulation(folder, spec, founding.layout(folder), ground, state, "cpu", **more)
    return folder, simulation, simulation.run()


QUICK = ("sparse contributors", "integer-1 mean", "integer-1 bounded")


@pytest.mark.parametrize(
    "case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)
def test_golden_losses(tmp_path, case):
    """Within a tolerance: processors differ in the last bits of training."""
    golden = json.loads(GOLDEN.read_text())["training"][case]
    found = training_trajectory(CASES[case], tmp_path)
    np.testing.assert_allclose(found, golden, rtol=1e-3)
    held_out = [after for _, after in found]
    assert held_out == sorted(held_out, reverse=True)  # it learns


def unsigned(body):
    """A round without its peers' signatures: every run draws its own keys."""
    said = {
        peer: msgspec.structs.replace(one, signature="") for peer, one in body.contributions.items()
    }
    return msgspec.structs.replace(body, contributions=said)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    base = tmp_path_factory.mktemp("simulation")
    return *simulated(base), base


def test_the_same_specification_gives_the_same_bits(done):
    folder, _, final, base = done
    other_folder, _, other = simulated(base, "again")
    assert other.hash() == final.hash()
    heads = []
    for one in (folder, other_folder):
        ledger = Ledger(one.ledger)
        heads.append([unsigned(e.body) for e in ledger.entries(RoundEntry)])
    assert heads[0] == heads[1]


def test_links_and_speed_change_the_clock_and_not_the_result(done):
    _, free, final, base = done
    slow = [LinkSpec(up=1e4, down=1e5, latency=0.5)] * 3
    _, linked, other = simulated(base, "slow", links=slow, step_seconds=2.0)
    assert other.hash() == final.hash()
    for purpose in ("contributions", "updates"):
        assert linked.traffic[purpose] == free.traffic[purpose]
    up, down = linked.traffic["contributions"][0], linked.traffic["updates"][1]
    # Every peer: 3 rounds of 3 steps of 2 s, its share of the bytes, and a round trip of 1 s for each
    # of the questions Next (twice), Contribute and Fetch; on top what compressing and applying
    # really took, signs of life on the same link, joining and leaving.
    least = 3 * (3 * 2.0 + 4 * 1.0) + 8 * up / 3 / 1e4 + 8 * down / 3 / 1e5
    assert least <= linked.clock < least + 12


def test_a_peer_ten_times_slower_counts_from_the_first_round_on_and_costs_the_others_little(done):
    """It measured its speed before it joined, and gets one step in the time in which the others do ten."""
    _, _, _, base = done
    changes = {"rounds.count": 2, "inner.steps": 20}
    folder, slow, _ = simulated(base, "one-slow", changes, step_seconds=[5.0, 5.0, 50.0])
    _, alone, _ = simulated(base, "none-slow", changes, step_seconds=5.0)
    bodies = [e.body for e in Ledger(folder.ledger).entries(RoundEntry)]
    assert [body.closed.accepted for body in bodies] == [[0, 1, 2]] * 2
    assert [body.parts[2] for body in bodies] == [(0, 2), (2, 2)]  # and skips nothing
    assert slow.clock < 1.03 * alone.clock
    shares = [event.utilisation for event in folder.records(RoundClosed)]
    assert all(0.9 < share <= 1 for each in shares for share in each.values())


def test_with_overlap_slow_links_cost_less_time_and_the_run_still_learns(done):
    _, _, final, base = done
    slow = {"links": [LinkSpec(up=1e4, down=1e5, latency=0.5)] * 3, "step_seconds": 20.0}
    _, waiting, _ = simulated(base, "waiting", **slow)
    folder, overlapped, other = simulated(base, "overlapped", {"rounds.overlap": 0.67}, **slow)
    again = simulated(base, "overlapped-again", {"rounds.overlap": 0.67})[2]
    assert other.hash() == again.hash() != final.hash()
    events = list(folder.records(RoundClosed))
    held_out = [event.held_out for event in events]
    assert held_out == sorted(held_out, reverse=True)
    # 60 s of steps a round, of which 40 can be done meanwhile: only the last of three exchanges of
    # some 6 s is waited for.
    assert 3 * 60 < overlapped.clock < 3 * 60 + 0.6 * (waiting.clock - 3 * 60)
    assert all(share > 0.95 for event in events for share in event.utilisation.values())
    bodies = [e.body for e in Ledger(folder.ledger).entries(RoundEntry)]
    steps = [[said.ahead for said in b.contributions.values()] for b in bodies]
    assert steps == [[0] * 3, [2] * 3, [2] * 3]
    assert sorted(b for body in bodies for b in body.blocks.values()) == list(range(9))


def test_a_budget_of_bytes_gives_its_rounds_and_skips_nothing(done):
    _, _, _, base = done
    changes = {"rounds.saving": 100.0, "inner.steps": 10, "rounds.evaluate": 100}
    folder, _, final = simulated(base, "budget", changes)
    _, again, other = simulated(base, "budget-again", changes, step_seconds=2.0)
    assert other.hash() == final.hash()
    spec, rounds = again.spec, again.spec.schedule
    bodies = [e.body for e in Ledger(folder.ledger).entries(RoundEntry)]
    assert len(bodies) == rounds.rounds > 3
    lengths = [{steps for _, steps in body.parts.values()} for body in bodies]
    assert lengths == [{rounds.steps_of(n)} for n in range(rounds.rounds)]
    taken = sorted(part for body in bodies for part in body.parts.values())
    edges = [first + steps for first, steps in taken]
    assert [first for first, _ in taken] == [0, *edges[:-1]]  # nothing is skipped
    assert edges[-1] == 3 * spec.total_steps


def test_with_a_budget_of_bytes_a_slow_peer_gets_fewer_steps_of_every_round(done):
    _, _, _, base = done
    changes = {"rounds.saving": 150.0, "inner.steps": 10, "rounds.evaluate": 100}
    folder, slow, _ = simulated(base, "budget-one-slow", changes, step_seconds=[9.0, 9.0, 27.0])
    rounds = slow.spec.schedule
    bodies = [e.body for e in Ledger(folder.ledger).entries(RoundEntry)]
    assert all(body.closed.accepted == [0, 1, 2] for body in bodies)
    steps = [[body.parts[peer][1] for peer in range(3)] for body in bodies]
    assert steps == [[n, n, n // 3] for n in map(rounds.steps_of, range(rounds.rounds))]
    assert slow.clock < 1.1 * 9.0 * rounds.steps


def test_the_ledger_of_a_simulation_is_one_that_holds(done):
    folder, _, final, _ = done
    ledger = Ledger(folder.ledger)
    assert ledger.verify(verify) > 6
    agreed = {e.round: e.body.hash for e in ledger.entries(StateEntry)}
    assert sorted(agreed) == [1, 2, 3]
    assert agreed[3] == final.hash()
    blocks = [b for e in ledger.entries(RoundEntry) for b in e.body.blocks.values()]
    assert sorted(blocks) == list(range(9))
    layout = founding.layout(folder)
    saved = states.load(folder.state(3), layout)
    assert saved.hash() == final.hash()


def test_metrics_are_one_line_for_each_round(done):
    folder, simulation, _, _ = done
    events = list(folder.records(RoundClosed))
    assert [e.round for e in events] == [0, 1, 2]
    assert all(e.accepted == [0, 1, 2] and e.rejected == {} for e in events)
    assert [e.tokens for e in events] == [3 * 3 * 2 * 32] * 3
    assert events[-1].traffic["contributions"] == simulation.traffic["contributions"]
    blobs = sum(sum(e.contribution_bytes) for e in events)
    heads = simulation.traffic["contributions"][0] - blobs
    assert 0 < heads < 9 * 1000
    assert os.path.getsize(folder.metrics) < 10_000


def test_links_are_read():
    ten = LinkSpec(10e6, 50e6, 0.04)
    assert parse_links("10/50 80ms", 3) == [ten] * 3
    assert parse_links(" 10 / 50 Mbit/s 80 ms ", 1) == [ten]
    assert parse_links("10/50 80ms, 0.5/2", 2) == [ten, LinkSpec(0.5e6, 2e6, 0.0)]


@pytest.mark.parametrize(
    "text",
    ["", "fast", "10", "10/", "/50", "0/50", "10/0", "-1/5", "1.2.3/4", "./4", "inf/3", "1/2 3"],
)
def test_links_that_cannot_be_read(text):
    with pytest.raises(ValueError, match="UP/DOWN LATENCYms"):
        parse_links(text, 3)


def test_links_for_another_number_of_peers():
    with pytest.raises(ValueError, match="2 given for 3 peers"):
        parse_links("10/50, 3/4", 3)
