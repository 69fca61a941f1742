"""Planning for a run that exists, from what its folder says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from duckweed.plan.answer import answer
from duckweed.plan.errors import PlanError
from duckweed.plan.inputs.existing import Measured, predict, read
from duckweed.plan.inputs.request import Request

TIMES = {"train": 4.0, "compress": 0.3, "send": 1.2, "wait": 0.0, "fetch": 0.8, "apply": 0.1}


def a_run(folder: Path, rounds: int = 2) -> Path:
    """A folder as `duckweed train` leaves it: 3 peers, llama-1m, 8 steps a round."""
    folder.mkdir()
    (folder / "run.toml").write_text("[inner]\nsteps = 8\n[rounds]\npeers = 3\ncount = 10\n")
    (folder / "layout.json").write_text(
        json.dumps({"names": ["model.embed_tokens.weight"], "shapes": [[256, 128]]})
    )
    record = {
        "event": "round", "seconds": 6.4, "accepted": [0, 1, 2], "update_bytes": 300_000,
        "contribution_bytes": [150_000] * 3, "timings": {str(peer): TIMES for peer in range(3)},
    }  # fmt: skip
    lines = [json.dumps({**record, "round": number}) for number in range(rounds)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_round_is_the_sum_of_its_parts() -> None:
    run = Measured(1_000_000, 4, 10, 0.5, 1.2, 2.4, 0.25, up=2e6, down=8e6, delay=0.1)
    found = predict(run)
    assert found.window == pytest.approx(5.0)
    assert found.exchange == pytest.approx(1.2e6 / 2e6 + 2.4e6 / 8e6 + 0.8 + 0.25)
    assert found.seconds == pytest.approx(found.window + found.exchange)
    alone = predict(replace(run, peers=1))  # a peer exchanges with its coordinator
    assert alone.exchange == pytest.approx(found.exchange)


def test_a_model_below_a_million_parameters_sends_what_it_sends() -> None:
    run = Measured(250_000, 2, 10, 0.5, 1.2, 2.4, 0.25, up=2e6, down=8e6, delay=0.1)
    found = predict(run)
    assert found.window == pytest.approx(5.0)
    assert found.exchange == pytest.approx(0.3e6 / 2e6 + 0.6e6 / 8e6 + 0.8 + 0.25)


def test_a_run_s_folder_gives_model_speed_links_and_sizes(tmp_path: Path) -> None:
    asked = read(a_run(tmp_path / "r"), Request())
    target, people, fixed, notes = asked.target, asked.crowd, asked.fixed, asked.notes
    assert target.model.shape.total == 1_070_464
    assert target.tokens == 8 * 8 * 128 * 3 * 10
    assert target.optimizer == "muon"
    (group,) = people.groups
    assert group.count == 3
    assert group.up == pytest.approx(150_000 * 8 / 1.2)
    assert group.down == pytest.approx(300_000 * 8 / 0.8)
    flop = target.model.flop_per_token * 8 * 128
    assert flop / group.rate("bf16") == pytest.approx(0.5)  # 4 s for 8 steps
    assert "a round took 6.4 s; the planner says 6.4 s (+0%)" in notes[1]
    made = answer(target, people, fixed=fixed, notes=notes, change=False)
    assert made.possible


def test_another_crowd_for_the_same_run(tmp_path: Path) -> None:
    crowd = "100x rtx3060 @ 10/50 Mbps 50ms"
    asked = read(a_run(tmp_path / "r"), Request(crowd=crowd, tokens="20B", deadline="30 days"))
    assert asked.crowd.machines == 100
    assert asked.target.tokens == 20e9
    assert asked.target.deadline == 30 * 86400
    assert asked.fixed == {}


def test_a_run_takes_no_deadline_that_is_over(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="must be positive"):
        read(a_run(tmp_path / "r"), Request(deadline="0 days"))


def test_a_run_without_a_closed_round_or_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no round has closed"):
        read(a_run(tmp_path / "r", rounds=0), Request())
    with pytest.raises(PlanError, match="no run there"):
        read(tmp_path / "nothing", Request())
