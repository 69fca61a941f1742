"""Code that comes with a model or a tokenizer never runs, and nobody is asked whether it may."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

pty = pytest.importorskip("pty")  # of POSIX alone

TRY = """
import sys
from pathlib import Path
from duckweed.learn.data import tokenizer
from duckweed.learn.model import configuration, model
from duckweed.learn.model.given import given_weights

here = Path(sys.argv[1])
for name, work in {
    "model": lambda: configuration.configuration("model", here, 256, 32),
    "given": lambda: given_weights("model", here),
    "tokenizer": lambda: tokenizer.load("tokenizer", here),
    "known": lambda: model.build(configuration.configuration("known", here, 256, 32)),
}.items():
    try:
        work()
        print(name, "was made")
    except (ValueError, RuntimeError) as error:
        print(name, "was refused:", error)
"""
OWN = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.fixture
def foreign(tmp_path):
    """A model of a type of its authors' own, a tokenizer likewise, and a known type with such code."""
    tiny = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 256}
    theirs = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    for name, facts in {
        "model": {"model_type": "own_type", "auto_map": theirs},
        "known": {"model_type": "llama", "auto_map": theirs, **tiny, **heads},
        "tokenizer": {"model_type": "own_type", "auto_map": theirs},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(facts))
        (tmp_path / name / "own.py").write_text(OWN)
    facts = {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]},
    }
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(facts))
    return tmp_path


def test_at_a_terminal_where_somebody_would_say_yes_nothing_is_asked_and_nothing_runs(foreign):
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n" * 20)
    command = [sys.executable, "-c", textwrap.dedent(TRY), str(foreign)]
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(foreign / "home")}
    told = subprocess.run(
        command, stdin=theirs, capture_output=True, text=True, timeout=120, env=offline
    )
    os.close(ours)
    os.close(theirs)
    lines = dict(line.split(" was ", 1) for line in told.stdout.splitlines() if " was " in line)
    assert told.returncode == 0, told.stderr
    assert lines["known"] == "made"  # transformers' own code has the type
    for name in ("model", "given", "tokenizer"):
        assert lines[name].startswith("refused: ")
    assert "its authors' own code" in lines["model"]
    assert not list(foreign.rglob("ran"))
    assert "[y/N]" not in told.stdout + told.stderr
