"""What a volunteer has given, over all runs."""

import msgspec
import pytest
from typer.testing import CliRunner

from duckweed.cli import app
from duckweed.volunteer import given
from duckweed.volunteer.given import Given

ONE = Given("a" * 64, "b" * 64, "/home/me", 2_000_000, 12, 0.25, 2, 8, False, "c" * 64, 1e9)


@pytest.fixture(autouse=True)
def own_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_the_newest_word_on_a_run_counts_and_damaged_files_do_not():
    given.keep(ONE)
    given.keep(msgspec.structs.replace(ONE, rounds=13))
    given.keep(msgspec.structs.replace(ONE, run="d" * 64, time=2e9))
    (given._place() / "x.json").write_text("{")
    assert [(x.run[0], x.rounds) for x in given.known()] == [("d", 12), ("a", 13)]


def test_me_says_what_was_given_in_all():
    run = CliRunner()
    assert "has taken part in no run yet" in run.invoke(app, ["me"]).output
    given.keep(ONE)
    given.keep(msgspec.structs.replace(ONE, run="d" * 64, over=True))
    said = run.invoke(app, ["me"], env={"COLUMNS": "200"}).output
    assert "In all: 4 M tokens in 24 rounds of 2 runs." in said
    assert "2 of 8" in said
