"""A budget of bytes in the planner: the run that it predicts is the one that the run's own rule gives."""

import json

import pytest
import typer
from typer.testing import CliRunner

from duckweed.cli import plan as command
from duckweed.plan.answer import answer, tree, within_budget
from duckweed.plan.inputs import crowd, models
from duckweed.plan.saving import budget
from duckweed.plan.search import Target
from duckweed.run.spec import RunSpec, override

HOME = "8x rtx4090 @ 20/100 Mbps 40ms"
TARGET = Target(models.dense(1e9), 2e10)


def of(saving: float, people: str = HOME):  # type: ignore[no-untyped-def]
    return budget(TARGET, crowd.read(people), saving)


def test_the_rounds_are_those_that_the_run_itself_would_have() -> None:
    found = of(150)
    changes: dict[str, object] = {
        "rounds.saving": 150.0, "rounds.peers": found.replicas, "rounds.count": 1,
        "inner.steps": found.steps,
    }  # fmt: skip
    assert override(RunSpec(), changes).schedule == found.schedule


@pytest.mark.parametrize("saving", [40, 150, 1000])
def test_a_machine_sends_as_many_times_fewer_bytes_as_were_asked_for_and_hardly_more(
    saving: float,
) -> None:
    found = of(saving)
    assert saving <= found.fewer < 1.1 * saving
    assert found.fetched > found.sent


def test_where_an_exchange_a_step_is_within_the_budget_there_is_one_a_step() -> None:
    found = of(3)
    assert found.schedule.most == 1
    assert found.fewer > 3
    assert found.replicas >= 2


def test_fewer_bytes_are_fewer_and_longer_rounds_and_less_time_exchanging() -> None:
    little, much = of(50), of(500)
    assert much.rounds < little.rounds
    assert much.schedule.fewest > little.schedule.most
    assert much.sent < little.sent
    assert much.share < little.share


def test_a_lone_machine_has_no_budget_and_is_told_why() -> None:
    people = crowd.read("1x rtx4090 @ 20/100 Mbps 40ms")
    given = answer(TARGET, people, change=False, saving=150)
    assert given.budget is None
    assert "fewer than two replicas" in within_budget(given)


def test_who_asks_for_no_budget_is_told_of_none() -> None:
    given = answer(TARGET, crowd.read(HOME), change=False)
    assert within_budget(given) == ""
    assert tree(given)["budget"] is None


ASKED = ["plan", "--model", "dense-1B", "--crowd", HOME, "--tokens", "20B"]


def invoke(*words: str):  # type: ignore[no-untyped-def]
    app = typer.Typer()
    command.register(app)
    app.callback()(lambda: None)
    return CliRunner().invoke(app, [*ASKED, *words])


def test_the_command_says_the_run_of_a_budget() -> None:
    said = " ".join(invoke("--saving", "150").output.split())
    assert "--saving 150: 2,478 rounds of 6 or 7 steps" in said
    written = json.loads(invoke("--saving", "150", "--json").output)
    assert written["budget"]["rounds"] == 2478


def test_a_budget_that_no_run_can_have_is_refused_with_what_it_means() -> None:
    refused = invoke("--saving", "0.5")
    assert refused.exit_code != 0
    assert "between 1 and 1,000,000" in str(refused.output) + str(refused.exception)
