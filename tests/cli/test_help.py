"""What the program says of itself."""

import re
import shlex

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from duckweed import __version__
from duckweed.cli import app
from duckweed.cli.common.examples import EXAMPLES


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
    names = {x.name or x.callback.__name__ for x in app.registered_commands}
    assert names == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_in_the_help_and_can_be_given(name):
    text = re.sub(r"\s+", " ", said(name, "--help").output)
    command = get_command(app).commands[name]
    for line in EXAMPLES[name]:
        program, first, *rest = shlex.split(line)
        assert (program, first) == ("duckweed", name)
        command.make_context(name, rest).close()  # each option exists, each value is of its type
        assert line in text
