"""What a step of reinforcement learning takes, from the pace of a machine."""

import json

import msgspec
import pytest
from fixtures import puzzle
from typer.testing import CliRunner

from duckweed.cli import app
from duckweed.plan.reinforced import plan, step
from duckweed.run import toml
from duckweed.run.spec import RunSpec, override
from duckweed.run.task.pace import Pace
from duckweed.run.task.sections import Reinforce

PACE = Pace(
    position=0.01, row=1e-4, past=1e-6, read=2e-5, check=1e-3, train=5e-5, fresh=1e-5, step=0.02, question=20.0,
    filled=1.0, spread=0.75,
)  # fmt: skip


def test_a_step_is_what_its_tokens_take_one_after_the_other() -> None:
    found, seconds = step(Reinforce(samples=8, tokens=30), 64, PACE), 64 / 8 * 20 * PACE.read
    for before in range(30):
        behind = 64 * (20 + before) * PACE.past if before else 0.0
        seconds += PACE.position + 64 * PACE.row + behind
    assert found.write == pytest.approx(seconds)
    assert found.check == pytest.approx(64 * 1e-3)
    assert found.train == pytest.approx(64 * 0.75 * 50 * PACE.train + PACE.step)
    assert found.seconds == pytest.approx(found.write + found.check + found.train)


def test_answers_that_end_early_are_not_written_on_and_a_divergence_reads_what_is_trained_on() -> (
    None
):
    task = Reinforce(samples=8, tokens=30)
    half = step(task, 64, msgspec.structs.replace(PACE, filled=0.5))
    assert half == step(Reinforce(samples=8, tokens=15), 64, PACE)
    held = step(msgspec.structs.replace(task, kl=0.1), 64, PACE)
    plain = step(task, 64, PACE)
    assert held.write == plain.write
    assert held.train - PACE.step == pytest.approx((plain.train - PACE.step) * 4 / 3)


def test_a_run_is_its_rounds_and_said_in_words() -> None:
    changes = {
        "task.kind": "reinforce",
        "task.samples": 8,
        "inner.batch": 64,
        "inner.steps": 3,
        "rounds.count": 10,
    }
    spec = override(RunSpec(), changes)
    made = plan(spec, PACE)
    assert (made.steps, made.rounds) == (3, 10)
    fresh = 64 * 0.75 * (20 + 64) * 1e-5  # once a round
    assert made.tree()["run"] == pytest.approx(10 * (3 * made.step.seconds + fresh))
    assert "75% of the groups had spread" in made.words()[2]


def test_where_no_group_had_spread_training_is_counted_as_if_all_had() -> None:
    task, none = Reinforce(samples=8, tokens=30), msgspec.structs.replace(PACE, spread=0.0)
    assert step(task, 64, none) == step(task, 64, msgspec.structs.replace(PACE, spread=1.0))
    spec = override(RunSpec(), {"task.kind": "reinforce", "task.samples": 8, "inner.batch": 64})
    assert "no group of answers had spread" in plan(spec, none).words()[2]


def test_peers_that_only_write_shorten_a_round_where_there_are_enough_for_every_trainer() -> None:
    def planned(trainers: int, writers: int, staleness: int):
        changes = {
            "task.kind": "reinforce", "task.samples": 8, "inner.batch": 64, "inner.steps": 3,
            "rounds.count": 10, "rounds.peers": trainers + writers, "task.writers": writers,
            "task.staleness": staleness,
        }  # fmt: skip
        return plan(override(RunSpec(), changes), PACE)

    one = step(Reinforce(samples=8), 64, PACE)
    learning, writing = one.check + one.train, one.write + one.check
    assert writing > learning
    made = planned(2, 2, 1)
    assert made.round == pytest.approx(3 * writing)
    alone = 3 * one.seconds + one.fresh  # nobody has written for the first
    assert made.run == pytest.approx(alone + 9 * 3 * writing)
    assert made.slower == pytest.approx(1)
    assert "2 peers only write" in made.words()[1]
    with_time = planned(2, 16, 8)
    assert with_time.round == pytest.approx(3 * learning + one.fresh)
    assert with_time.slower == pytest.approx(8 * with_time.round / (3 * writing))
    few = planned(2, 3, 2)
    assert few.round == pytest.approx(alone)
    assert "that takes 4, 2 for each peer that trains" in few.words()[1]


def test_the_command_measures_this_machine_for_a_specification(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rl.toml").write_text(toml.write(puzzle.specification(tmp_path)))
    told = CliRunner().invoke(app, ["plan", "rl.toml", "--plugin", "letters_plugin.py", "--json"])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["answers"] == 64
    parts = (found["step"][name] for name in ("write", "check", "train"))
    assert found["step"]["seconds"] == pytest.approx(sum(parts))
    (tmp_path / "text.toml").write_text("[inner]\nsteps = 3\n")
    refused = CliRunner().invoke(app, ["plan", "text.toml"])
    assert refused.exit_code != 0
    assert "a run whose model writes nothing" in refused.output
