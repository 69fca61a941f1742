"""`duckweed evolve` as a user has it."""

import json
import re

import pytest
from fixtures import commands, tiny
from typer.testing import CliRunner

from duckweed.cli import app
from duckweed.evolve.campaign import create
from duckweed.evolve.workers import local_worker
from duckweed.run import recipe as recipes
from duckweed.run.spec import RunSpec


def call(*words: str) -> tuple[int, str]:
    """Exit code, and all that was said as one line."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["evolve", *words])
    return result.exit_code, " ".join(result.output.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "soon"], "expected a time such as 2h"),
        (["--trial", "3m"], "compute is wanted"),
        (["--llm", "http://127.0.0.1:1/v1"], "go together"),
        (["--set", "pairs"], "expected KEY=VALUE"),
        (["--set", "speed=3"], "known: budget, alpha"),
        (["--set", "pairs='many'"], "settings:"),
        (["--set", "pilot=3"], "pilot = 3: from 4"),
        (["--set", "alpha=1.5"], "a share"),
        (["--set", "candidates=0"], "plant = 1"),
        (["--set", "vault_shares=[1.0]"], "at least three"),
        (["--workers", "0"], "a number of processes, or invitations"),
        (["--workers", "many"], "a number of processes, or invitations"),
        (["--workers", "duckweed1:xyzxyz"], "the invitation is damaged"),
        (["--resume"], "no campaign under evolve/"),
        (["--resume", "--out", "nowhere"], "no campaign there"),
        (["--resume", "--set", "pairs=4"], "keeps its data and settings"),
        (["--data", "no-such-file.txt", "--out", "c"], "no-such-file.txt"),
        (["--data", "short.txt", "--out", "c"], "held-out"),
        (["show", "nowhere"], "no campaign there"),
    ],
)
def test_bad_input_is_a_clear_error_and_leaves_nothing(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("a pond\n" * 20)
    code, output = call(*words)
    assert code == 1
    assert said in output
    assert "Traceback" not in output
    assert [p.name for p in tmp_path.iterdir()] == ["short.txt"]


MODEL = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
QUICK = [
    "--preset", "config.json", "--data", "texts", "--trial", "1.8e9flop",
    *(f"--set={x}" for x in (
        "pilot=4", "pairs=4", "candidates=2", "vault_seeds=2", "scale_pairs=1", "planned=2",
        "rates=[16.0]", "batch='inner.weight_decay'", "vault_shares=[0.5, 0.75, 1.0]", "plant=0.0",
    )),
]  # fmt: skip
"""Weight decay is tuned in place of the batch: of a smaller batch a trial has up to eight times the steps."""


@pytest.mark.slow
def test_a_campaign_from_its_first_budget_to_its_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local_worker, "fork_server", commands.lent)
    (tmp_path / "config.json").write_text(json.dumps(MODEL))
    (tmp_path / "texts").mkdir()
    words = tiny.text(60000).split(" ")
    for i in range(200):
        part = " ".join(words[i * 300 : (i + 1) * 300])
        (tmp_path / "texts" / f"{i:03}.txt").write_text(f"{i} {part}")

    folder = str(tmp_path / "c")
    code, output = call("--budget", "5e9flop", "--out", folder, *QUICK)
    assert code == 1
    assert "too small" in output
    needed = re.search(r"at least --budget (\S+flop)", output)
    assert needed

    again = ["--resume", "--out", folder, "--budget", needed.group(1)]
    (tmp_path / "c" / "stop").touch()  # of yesterday: going on means going on
    code, output = call(*again)
    assert code == 0, output
    assert "The budget is spent" in output

    code, output = call("show", folder, "--export", "c.jsonl")
    assert code == 0, output
    assert "chain and signatures hold" in output
    assert re.search(r"generation 0: .*optimizer=adamw", output)
    assert '"kind":"genesis"' in (tmp_path / "c.jsonl").read_text().splitlines()[0]

    number = next(
        entry["number"]
        for entry in map(json.loads, (tmp_path / "c.jsonl").read_text().splitlines())
        if entry["kind"] == "trial"
    )
    code, output = call("repeat", folder, str(number))
    assert code == 0, output
    assert "the same" in output
    assert "bits may differ" not in output
    code, output = call("repeat", folder, "0")
    assert code == 1
    assert "entry 0 is not a trial" in output
    with monkeypatch.context() as later:
        later.setattr(create, "FORMAT", create.FORMAT + 1)
        later.setattr(create, "SAME_TRIALS", (create.FORMAT,))
        for words in (["repeat", folder, str(number)], again):
            code, output = call(*words)
            assert code == 1
            assert f"format {create.FORMAT - 1}, this version reads {create.FORMAT}" in output

    page = (tmp_path / "c" / "report.html").read_text()
    assert "Lineage" in page
    assert "http" not in page.split("<script")[0]  # nothing is fetched
    spec = recipes.lay(RunSpec(), tmp_path / "c" / "evolved.toml")
    assert spec.inner.learning_rate != RunSpec().inner.learning_rate
