"""What a crowd can train as paths, and when it is said."""

import json
import math

import pytest

from duckweed.pages.plan_page import plan_page
from duckweed.plan import paths
from duckweed.plan.answer import Answer, answer, as_paths, tree
from duckweed.plan.inputs import request, table
from duckweed.plan.inputs.request import Request

GAMERS = "5000x rtx4090 @ 100 Mbps 80ms"


def asked(model: str, crowd: str, tokens: str = "", deadline: str = "1 year") -> Answer:
    question = request.read(Request(model, crowd, tokens, deadline))
    return answer(question.target, question.crowd)


@pytest.fixture(scope="module")
def example() -> Answer:
    return asked("deepseek-v3-671b", GAMERS)


def test_the_equivalent_size_reproduces_every_measurement_within_the_interval():
    for row in table.rows("paths"):
        worth = paths.equivalent(int(row["paths"]), float(row["parameters"]))
        measured = float(row["equivalent"])
        assert worth.low * 0.999 <= measured <= worth.high * 1.001, row["name"]


def test_every_measurement_names_its_source():
    assert all(row["source"] and row["what"] for row in table.rows("paths"))


def test_more_paths_are_worth_no_less_and_never_as_much_as_their_total():
    worth = [paths.equivalent(count, 1e9) for count in (1, 2, 8, 32, 256)]
    assert worth[0].low == worth[0].high == 1e9
    for count, one in zip((2, 8, 32, 256), worth[1:], strict=True):
        assert 1e9 <= one.low <= one.median <= one.high < 0.6 * count * 1e9 + 1e9
    assert [one.median for one in worth] == sorted(one.median for one in worth)


def test_nothing_is_claimed_beyond_the_largest_number_of_paths_that_was_measured():
    assert paths.most() == 256
    with pytest.raises(ValueError, match="nothing was measured beyond 256"):
        paths.equivalent(512, 1e9)


def test_a_crowd_is_divided_into_at_most_as_many_paths_as_it_has_machines():
    def tried(line: str) -> list[int]:
        return paths.numbers(request.read(Request("dense-7B", line)).crowd)

    assert tried("1x rtx4090 @ 10/50 Mbps") == []
    assert tried("9x rtx4090 @ 10/50 Mbps") == [2, 4, 8]
    assert tried(GAMERS)[-1] == 256


def test_the_worked_example_gets_paths_that_fit_its_cards_its_year_and_its_text(example):
    found = example.paths
    assert found is not None
    assert found.days.median <= 365
    assert found.tokens <= 14.8e12 * 1.01
    assert math.isclose(found.total, found.count * found.parameters)
    assert found.equivalent.high < found.total
    for role in found.memory:
        assert role.device <= role.device_room
        assert role.host <= role.host_room


def test_a_path_never_crosses_the_internet_inside_itself(example):
    found = example.paths
    group = example.report.crowd.groups[0]
    assert found.parameters * 4 < group.usable  # bf16 weights and gradients at the very least
    assert found.machines <= group.count / found.count + 1


def test_more_memory_is_never_worth_less():
    worth = []
    for factor in (1.0, 2.0, 8.0):
        question = request.read(Request("deepseek-v3-671b", GAMERS))
        found = paths.paths(question.target, question.crowd.scaled(memory=factor), 365)
        worth.append(found.equivalent.median)
    assert worth == sorted(worth)
    assert worth[-1] > 2 * worth[0]


def test_little_text_feeds_fewer_or_smaller_paths():
    question = request.read(Request("deepseek-v3-671b", GAMERS, "100B"))
    found = paths.paths(question.target, question.crowd, 365)
    assert found.tokens <= 1.01e11
    nothing = request.read(Request("deepseek-v3-671b", GAMERS, "100M"))
    assert paths.paths(nothing.target, nothing.crowd, 365) is None


def test_paths_are_offered_only_where_the_model_fits_no_machine_or_its_links_bind(example):
    assert example.paths is not None
    assert asked("dense-1B", "8x rtx4090 @ 1 Gbps 20ms", "20B").paths is None
    alone = asked("deepseek-v3-671b", "1x rtx4090 @ 100 Mbps")
    assert alone.report.best is None
    assert alone.paths is None


def test_what_is_said_names_size_worth_memory_bytes_and_limits(example):
    what, how = as_paths(example.paths)
    assert "paths of" in what
    assert "worth a dense model of" in what
    assert "not of the total" in what
    for word in ("20 GB", "sends", "fetches", "common start", "no general model"):
        assert word in how


def test_program_and_page_get_them_too(example):
    found = json.loads(json.dumps(tree(example), allow_nan=False))["paths"]
    assert found["count"] == example.paths.count
    assert found["equivalent"]["low"] < found["equivalent"]["high"] < found["total"]
    page = plan_page(example)
    assert "What this crowd can train as paths" in page
    assert as_paths(example.paths)[0] in page
