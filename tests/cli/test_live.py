"""What the live view says of a run."""

import io

from rich.console import Console

from duckweed.cli.views.live import View
from duckweed.run.events import RoundClosed
from duckweed.run.spec import RunSpec, override
from duckweed.run.task.written import Written


def test_who_only_writes_is_told_of_with_the_tokens_that_the_next_round_learns_from():
    spec = override(RunSpec(), {"task.kind": "reinforce", "inner.batch": 16})
    out = io.StringIO()
    view = View(Console(file=out, width=500), "run", spec, 1.0)
    told = Written(problems=2, answers=16, tokens=64, reward=4.0)
    closed = {"seconds": 1.0, "accepted": [0, 1], "written": told}
    view.take(RoundClosed(round=0, **closed, writers={2: 1200, 3: 34}))
    view.take(RoundClosed(round=1, **closed))
    first, second = out.getvalue().splitlines()
    assert first.endswith("2 peers; 2 peers wrote 1,234 tokens for the next round")
    assert second.endswith("2 peers")
