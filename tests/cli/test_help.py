"""What the program says of itself."""

import re
import shlex

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from duckweed import __version__
from duckweed.cli import app
from duckweed.cli.common.examples import EXAMPLES
from duckweed.learn.model.presets import PRESETS
from duckweed.plan.inputs import crowd, models


def said(*words):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


def test_the_version_is_said():
    assert said("--version").output == f"duckweed {__version__}\n"


def test_exit_codes_and_completion_are_in_the_help_of_the_program():
    text = said("--help").output
    assert "130 ended by Ctrl-C" in text
    assert "--install-completion" in text
    assert said("no-such-command").exit_code == 2
    assert said("show", "no-such-run").exit_code == 1


def test_every_command_has_examples():
    def names(command, words=""):
        for name, below in getattr(command, "commands", {}).items():
            yield words + name
            yield from names(below, f"{words}{name} ")

    assert set(names(get_command(app))) == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_in_the_help_and_can_be_given(name):
    text = re.sub(r"\s+", " ", said(*name.split(), "--help").output)
    command = get_command(app)
    for word in name.split():
        command = command.commands[word]
    for line in EXAMPLES[name]:
        given = shlex.split(line)
        words = ["duckweed", *name.split()]
        assert given[: len(words)] == words
        command.make_context(
            name, given[len(words) :]
        ).close()  # each option exists, each value is of its type
        assert line in text


def test_models_and_crowds_in_examples_have_their_names_in_the_tables():
    def given(name, option):
        words = [shlex.split(line) for line in EXAMPLES[name]]
        return [line[line.index(option) + 1] for line in words if option in line]

    assert given("plan", "--model")
    for model in given("plan", "--model"):
        models.preset(model)
    for text in given("plan", "--crowd"):
        crowd.read(text)
    assert {*given("train", "--model"), *given("evolve", "--preset")} <= PRESETS.keys()
