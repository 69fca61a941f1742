"""The answer as people and programs get it: verdict, what would have to change, traces, the page."""

import json
import math
import re

import pytest
import typer
from typer.testing import CliRunner

from duckweed.pages.plan_page import plan_page
from duckweed.plan import explain, inverse
from duckweed.plan.answer import answer, finite, tree, verdict
from duckweed.plan.inputs import crowd, models
from duckweed.plan.search import DAY, Target

HOME = "1000x rtx4090 @ 20/100 Mbps 40ms, 60% online, 6h"


@pytest.fixture(scope="module")
def hard():  # type: ignore[no-untyped-def]
    """DeepSeek-V3 on 5,000 RTX 4090 within a year: the worked example of the documentation."""
    people = crowd.read("5000x rtx4090 @ 100 Mbps 80ms")
    return answer(Target(models.preset("deepseek-v3-671b"), 14.8e12, deadline=365 * DAY), people)


@pytest.fixture(scope="module")
def easy():  # type: ignore[no-untyped-def]
    return answer(Target(models.dense(1e9), 2e10, deadline=90 * DAY), crowd.read(HOME), curves=True)


def test_the_worked_example_is_impossible_for_the_reason_it_is_known_for(hard) -> None:  # type: ignore[no-untyped-def]
    assert not hard.possible
    assert hard.report.days.median > 50 * 365
    assert hard.binds == "the links"
    best = hard.report.best
    assert best.label == "experts over the internet"
    assert best.settings()["replicas"] <= 20
    assert (
        "one layer needs 184 GB"
        in {o.strategy: o.why for o in hard.report.options}["pipeline over the internet"]
    )
    pool = best.evaluation.pools[0].terms
    surplus = float(pool["wan"].ravel()[0] / pool["compute"].ravel()[0])
    assert 100 < surplus < 1000  # "hundreds of times too much"


def test_impossible_is_never_the_last_word(hard) -> None:  # type: ignore[no-untyped-def]
    assert hard.largest is not None
    assert 1e10 < hard.largest.parameters < 1e11
    assert hard.combination is not None
    assert hard.combination.days <= 365
    assert any(lever.factor for lever in hard.levers)


def test_a_lever_is_enough_and_a_little_less_is_not() -> None:
    target = Target(models.dense(8e9), 1e12)
    people = crowd.read(HOME)
    goal = inverse.days(target, people) * 0.7
    found = {lever.name: lever for lever in inverse.levers(target, people, goal)}
    for name in ("machines", "speed"):
        factor = found[name].factor
        assert factor is not None
        assert inverse.days(target, people.scaled(**{name: factor})) <= goal
        assert inverse.days(target, people.scaled(**{name: factor / 1.1})) > goal


def test_the_largest_model_is_possible_and_a_larger_one_is_not() -> None:
    people = crowd.read(HOME)
    found = inverse.largest(Target(models.dense(1e9), 2e10), people, 30)
    assert found is not None
    assert found.days <= 30
    size = found.parameters * 1.2
    assert inverse.days(Target(models.dense(size), 20 * size), people) > 30


def test_parts_of_the_time_add_up_to_the_median(easy) -> None:  # type: ignore[no-untyped-def]
    total = sum(cause.days for cause in easy.report.causes)
    assert total == pytest.approx(easy.report.days.median, rel=0.05)
    assert easy.report.days.low <= easy.report.days.median <= easy.report.days.high


def test_verdict_and_chance(easy, hard) -> None:  # type: ignore[no-untyped-def]
    assert easy.possible
    assert verdict(easy).startswith("Yes")
    assert easy.chance > 0.5
    assert verdict(hard).startswith("No")
    assert hard.chance == 0


def test_every_figure_has_a_formula_and_its_values(easy) -> None:  # type: ignore[no-untyped-def]
    best = easy.report.best
    pool_terms = set(best.evaluation.pools[0].terms) - {"fits"}
    assert pool_terms <= set(explain.terms("pool"))
    assert set(best.evaluation.terms) <= set(explain.terms("whole"))
    lines = explain.derivation(best)
    assert all(line.source and line.formula for line in lines if not line.name.startswith("["))
    seconds = {line.name: line for line in lines}["seconds"]
    values = dict(re.findall(r"(\w+) = ([\d.e+-]+)", seconds.values))
    ours = (
        float(values["tokens"])
        * float(values["penalty"])
        / float(values["rate"])
        / float(values["useful"])
    )
    assert ours / DAY == pytest.approx(float(best.evaluation.seconds.ravel()[0]) / DAY, rel=1e-3)


def test_sensitivity_is_sorted_and_moves_the_right_way(easy) -> None:  # type: ignore[no-untyped-def]
    bars = {bar.name: bar for bar in easy.bars}
    swings = [bar.swing for bar in easy.bars]
    assert swings == sorted(swings, reverse=True)
    assert bars["audit"].days_high > bars["audit"].days_low
    assert bars["mfu_consumer"].days_high < bars["mfu_consumer"].days_low


def test_json_has_no_infinities_and_says_what_was_read(easy) -> None:  # type: ignore[no-untyped-def]
    made = json.loads(json.dumps(tree(easy), allow_nan=False))
    assert made["possible"] is True
    assert any("20 Mbit/s up" in note for note in made["read_as"])
    assert made["days"]["low"] <= made["days"]["median"] <= made["days"]["high"]
    assert finite({"a": [math.inf, 1.0]}) == {"a": [None, 1.0]}


def test_reinforcement_learning_adds_its_rollouts() -> None:
    people = crowd.read("200x 8x h200 @ 10 Gbps 20ms")
    base = answer(Target(models.preset("deepseek-v3-671b"), 1e12), people, change=False)
    more = answer(Target(models.preset("deepseek-r1-671b"), 1e12), people, change=False)
    assert more.report.rollouts is not None
    assert more.report.rollouts.workers > 0
    assert more.report.days.median > base.report.days.median


def test_the_page_is_whole_and_fetches_nothing(easy) -> None:  # type: ignore[no-untyped-def]
    made = plan_page(easy)
    for name in ("split", "memory", "machines", "link", "tornado"):
        assert f'id="{name}"' in made
    assert verdict(easy) in made
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=.https?:", made)


def test_a_group_that_only_slows_the_others_is_left_out() -> None:
    people = crowd.read("8x rtx4090 @ 1 Gbps 10ms, 30 days + 8x m4 @ 1 Mbps 300ms, 95% malicious")
    made = answer(Target(models.dense(3e8), 6e9), people, change=False)
    assert made.report.left_out == ["8 x Apple M4"]
    assert any("left out" in note for note in made.notes)


@pytest.fixture
def run():  # type: ignore[no-untyped-def]
    from duckweed.cli.plan import register

    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)

    def call(*words: str):  # type: ignore[no-untyped-def]
        return CliRunner().invoke(app, ["plan", *words])

    return call


def test_the_command_prints_the_verdict_first(run) -> None:  # type: ignore[no-untyped-def]
    result = run(
        "--model", "dense-300M", "--crowd", HOME, "--tokens", "6B", "--deadline", "60 days"
    )
    assert result.exit_code == 0
    assert "Yes" in result.output.splitlines()[1]
    assert "Where the time goes" in result.output


def test_the_command_explains(run) -> None:  # type: ignore[no-untyped-def]
    result = run("--model", "dense-300M", "--crowd", HOME, "--tokens", "6B", "--explain")
    assert "arXiv 2503.09799" in result.output
    assert "flop_per_token" in result.output


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--model", "llama-3-9b", "--crowd", HOME), "llama-3-8b"),
        (("--model", "llama-3-8b"), "--crowd is missing"),
        (("--model", "llama-3-8b", "--crowd", HOME, "--tokens", "-5B"), "greater than zero"),
        (("--model", "llama-3-8b", "--crowd", HOME, "--precision", "fp6"), "bf16+adamw"),
        (("--model", "llama-3-8b", "--crowd", HOME, "--deadline", "soon"), "number"),
        (("--model", "llama-3-8b", "--crowd", HOME, "--assume", "mfu=0.5"), "mfu_consumer"),
        (("--model", "llama-3-8b", "--crowd", HOME, "--context", "-4"), "context"),
    ],
)
def test_bad_input_is_one_clear_error_and_no_plan(run, words, hint) -> None:  # type: ignore[no-untyped-def]
    result = run(*words)
    assert result.exit_code != 0
    assert hint in " ".join(result.output.split())
    assert "Traceback" not in result.output
