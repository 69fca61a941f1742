"""The examples, run as a reader runs them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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


def test_the_tasks_for_lm_eval_name_data_that_is_there_and_what_their_rows_have():
    root = EXAMPLES[0].parents[1]
    for path in sorted(root.glob("examples/lm_eval/*.yaml")):
        task = yaml.safe_load(path.read_text())
        assert task["task"] == path.stem
        file = root / task["dataset_kwargs"]["data_files"][task["test_split"]]
        for row in map(json.loads, file.read_text().splitlines()):
            assert 0 <= row["answer"] < len(row["choices"])
            for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
                assert set(re.findall(r"\{\{(\w+)", task.get(key, ""))) <= row.keys()
