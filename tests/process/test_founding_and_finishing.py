"""Ended at every step of its founding and of its finishing, a run can be gone on with to its end."""

import itertools

import pytest
from fixtures import commands, tiny

from duckweed.run import toml
from duckweed.run.folder import RunFolder

pytestmark = [pytest.mark.slow, pytest.mark.long]

FOUNDING = "duckweed.round.founding"
STEPS_OF_FOUNDING = [
    ("duckweed.run.folder", "_make", "after"),
    (FOUNDING, "prepare", "before"),
    (FOUNDING, "check_room", "before"),
    (FOUNDING, "first_model", "after"),
    (FOUNDING, "write_atomically", "after"),
    (FOUNDING, "State.save", "after"),
    (FOUNDING, "load_or_create", "after"),
    (FOUNDING, "genesis", "before"),
    (FOUNDING, "Ledger.append", "after"),
    ("duckweed.run.folder", "_check_free", "after"),
]
STEPS_OF_FINISHING = [
    ("duckweed.process.simulation", "Simulation.run", "after"),
    ("duckweed.round.export", "latest_state", "before"),
    ("duckweed.round.export", "continued", "before"),
    ("duckweed.pages.run_summary", "summarise", "before"),
    ("duckweed.pages.run_page", "run_page", "after"),
]


def duckweed(base, *words, fault=()):
    module = "fixtures.faulty" if fault else "duckweed.cli"
    return commands.run([*fault, *words], base, {"COLUMNS": "200"}, module=module)


@pytest.mark.parametrize("first", range(2))
def test_ended_at_any_step_it_goes_on_to_its_end(tmp_path, first):
    """By Ctrl-C and by a kill in turn; the other test of the two begins with the other one."""
    ways = itertools.islice(itertools.cycle(["Ctrl-C", "kill"]), first, None)
    spec = tiny.specification(tmp_path, {"rounds.peers": 1, "rounds.count": 2})
    (tmp_path / "run.toml").write_text(toml.write(spec))
    new = ("train", "run.toml", "--name", "one", "--simulate")
    folder = RunFolder(tmp_path / "runs" / "one")
    for room, step, when in STEPS_OF_FOUNDING[first::2]:
        how = next(ways)
        ended = duckweed(tmp_path, *new, fault=(room, step, when, how))
        assert ended.returncode == (130 if how == "Ctrl-C" else 9), (step, ended.stderr)
        assert not folder.path.exists(), step
        if how == "Ctrl-C":
            assert "Stopped" in ended.stdout + ended.stderr
            assert not list((tmp_path / "runs").iterdir()) or step == "_check_free", step
    (last_round, *later) = STEPS_OF_FINISHING
    ended = duckweed(tmp_path, *new, fault=(*last_round, next(ways)))
    assert folder.founded, ended.stderr
    again = ("train", "--simulate", "--resume", "runs/one")
    for room, step, when in later:
        how = next(ways)
        ended = duckweed(tmp_path, *again, fault=(room, step, when, how))
        assert ended.returncode == (130 if how == "Ctrl-C" else 9), (step, ended.stderr)
        assert not folder.report.exists()
        if how == "Ctrl-C":
            assert "Write them with: duckweed train --resume runs/one" in ended.stdout
    ended = duckweed(tmp_path, *again)
    assert ended.returncode == 0, ended.stderr
    assert "It learned" in ended.stdout
    assert folder.report.is_file()
    over = duckweed(tmp_path, "train", "--resume", "runs/one")
    assert over.returncode == 0, over.stderr
    assert "This run is finished" in over.stdout


def test_a_simulated_run_that_was_stopped_goes_on_from_its_last_state(tmp_path):
    """Also with links, and with the clock where it was."""
    spec = tiny.specification(tmp_path, {"rounds.count": 4, "rounds.checkpoint": 1})
    (tmp_path / "run.toml").write_text(toml.write(spec))
    ways = ("--simulate", "--links", "10/50 80ms", "--step-seconds", "1")
    fault = ("duckweed.swarm.coordinator.rounds", "RoundDriver._report", "after", "Ctrl-C")
    stopped = duckweed(tmp_path, "train", "run.toml", "--name", "two", *ways, fault=fault)
    assert stopped.returncode == 130, stopped.stderr
    assert "Stopped after 1 closed rounds" in stopped.stdout
    resumed = duckweed(tmp_path, "train", "--resume", "runs/two", *ways)
    assert resumed.returncode == 0, resumed.stderr
    whole = duckweed(tmp_path, "train", "run.toml", "--name", "whole", *ways)
    assert _said(resumed) == _said(whole)


def _said(done):
    return next(line for line in done.stdout.splitlines() if "Final state" in line).split()[-1]
