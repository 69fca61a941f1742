"""The examples, run as a reader runs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
SAYS = {
    "own_loop": "round 2: ",
    "own_rule": "middle, round 2: ",
    "own_wire": "bits a value",
    "run": "round 2: ",
}


def test_there_are_four_and_each_fits_on_a_page():
    assert [path.stem for path in EXAMPLES] == sorted(SAYS)
    assert all(len(path.read_text().splitlines()) <= 60 for path in EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_as_it_stands(path, tmp_path):
    ended = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, env=os.environ
    )
    assert ended.returncode == 0, ended.stderr
    assert SAYS[path.stem] in ended.stdout
