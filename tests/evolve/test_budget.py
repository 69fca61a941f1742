"""What `--budget` and `--trial` may say."""

import pytest

from duckweed.evolve.budget import BudgetError, parse


@pytest.mark.parametrize(
    ("text", "seconds", "flops"),
    [
        ("2h", 7200, None),
        ("90m", 5400, None),
        ("45 s", 45, None),
        ("1.5 hours", 5400, None),
        ("1e15flop", None, 1e15),
    ],
)
def test_a_budget_is_a_time_or_compute(text, seconds, flops):
    assert (parse(text).seconds, parse(text).flops) == (seconds, flops)


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "0h", "nanh", "1e99flop", "2 fortnights"])
def test_a_budget_that_cannot_be_read_is_refused(text):
    with pytest.raises(BudgetError, match="expected a time"):
        parse(text)
