"""A recipe as a file, laid over a specification."""

import pytest
from typer.testing import CliRunner

from duckweed.cli import app
from duckweed.run import recipe
from duckweed.run.spec import RunSpec, SpecError, override

OTHER = override(
    RunSpec(),
    {
        "seed": 7, "data.path": "elsewhere", "rounds.count": 40, "inner.optimizer": "lion",
        "inner.betas": [0.9, 0.99], "wire.kind": "sparse", "wire.keep": 9, "outer.momentum": 0.3,
        "architecture.family": "qwen3", "architecture.tied": True, "model.sequence": 64,
    },
)  # fmt: skip


def written(folder, text, name="evolved.toml"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_recipe_brings_how_to_train_and_leaves_what_is_of_the_run(tmp_path):
    path = written(tmp_path, recipe.write(OTHER))
    mine = override(RunSpec(), {"seed": 3, "data.path": "mine.txt", "rounds.count": 50})
    found = recipe.lay(mine, path)
    for section in recipe.SECTIONS:
        assert getattr(found, section) == getattr(OTHER, section)
    assert (found.seed, found.data, found.rounds) == (3, mine.data, mine.rounds)


def test_what_it_leaves_out_stays(tmp_path):
    path = written(tmp_path, "[inner]\nlearning_rate = 0.003\n")
    assert recipe.lay(OTHER, path) == override(OTHER, {"inner.learning_rate": 0.003})
    assert recipe.lay(OTHER, written(tmp_path, "")) == OTHER


def test_a_model_beside_the_recipe_is_found_from_anywhere(tmp_path, monkeypatch):
    path = written(tmp_path, '[model]\nsource = "model.json"\n')
    written(tmp_path, "{}", "model.json")
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    found = recipe.lay(RunSpec(), path.parent / "evolved.toml")
    assert found.model.source == str(tmp_path / "model.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[inner", "not valid TOML"),
        ("seed = 3", "seed is no part of a recipe.*duckweed train"),
        ("[data]\npath = 'x'", "data is no part of a recipe"),
        ("[rounds]\ncount = 3", "rounds is no part of a recipe"),
        ("inner = 3", r"inner = 3: expected a section \[inner\]"),
        ("[inner]\nlearning_rat = 1", "inner.learning_rat: unknown key; did you mean"),
        ("[inner]\noptimizer = 'liom'", "did you mean 'lion'"),
        ("[architecture]\nfamily = 'gpt'", "architecture.family = 'gpt'"),
        ("[architecture]\nlayers = 0", "architecture.layers = 0: must be between"),
        ("[inner]\nlearning_rate = nan", "inner.learning_rate = nan: must be between"),
        ("[inner]\nwarmup = 1000", "the whole run has only 260 steps"),
    ],
)
def test_what_is_wrong_with_it_is_said_with_its_name(tmp_path, text, message):
    with pytest.raises(SpecError, match=message) as error:
        recipe.lay(RunSpec(), written(tmp_path, text))
    assert "evolved.toml" in str(error.value)


def test_files_that_are_no_recipe(tmp_path):
    with pytest.raises(SpecError, match="no such file"):
        recipe.lay(RunSpec(), tmp_path / "none.toml")
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        recipe.lay(RunSpec(), binary)
    binary.write_bytes(b"#" * (1 << 19))
    with pytest.raises(SpecError, match="larger than"):
        recipe.lay(RunSpec(), binary)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "none.toml"], "no such file"),
        (["--recipe", "bad.toml"], "inner.learning_rat: unknown key"),
        (
            ["--recipe", "good.toml", "--resume", "r"],
            "--recipe does not go with a run that has begun",
        ),
        (["--recipe", "good.toml", "--set", "inner.warmup=900"], "only 260 steps"),
    ],
)
def test_the_command_says_what_is_wrong_and_leaves_nothing(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "[inner]\nlearning_rat = 1", "bad.toml")
    written(tmp_path, "[inner]\nlearning_rate = 0.01", "good.toml")
    result = CliRunner().invoke(app, ["train", *options])
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "runs").exists()
