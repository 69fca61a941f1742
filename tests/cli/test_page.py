"""`duckweed page` and `serve --page` with what cannot be shown, or not there."""

import contextlib
import socket

import pytest
from pages import made
from typer.testing import CliRunner

from duckweed.cli import app
from duckweed.cli.serve import LAST, ServeCommand


@pytest.fixture
def taken():
    with contextlib.closing(socket.socket()) as it:
        it.bind(("127.0.0.1", 0))
        it.listen()
        yield f"127.0.0.1:{it.getsockname()[1]}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*words):
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "1000"})
    assert done.exit_code == 1
    return " ".join(done.output.split())  # however wide the terminal is thought to be


def test_a_port_that_is_taken_is_told_before_a_run_is_begun(here, taken):
    made.run(here / "one", 2)
    assert "taken by another program" in refused("page", "one", "--listen", taken)
    assert "taken by another program" in refused("serve", "--page", taken)
    assert "not HOST:PORT" in refused("serve", "--page", "host:99999")
    assert not (here / "runs").exists()


def test_a_folder_without_runs_is_told(here):
    assert "no run there" in refused("page")
    assert "no run there" in refused("page", "nothing")


def test_a_run_of_a_later_version_is_told(here):
    folder, _ = made.run(here / "later", 2)
    folder.spec.write_text(folder.spec.read_text() + "\n[weather]\nsun = true\n")
    said = refused("page", "later")
    assert "unknown key" in said
    assert "if a later version of duckweed made this run" in said


@pytest.mark.parametrize(
    ("words", "page"),
    [
        (["a.toml", "--page"], LAST),
        (["--page", "a.toml"], LAST),
        (["--page", "--train", "2"], LAST),
        (["--page", ":8080", "a.toml"], ":8080"),
        (["--page", "[::1]:8080"], "[::1]:8080"),
        (["--page=0.0.0.0:1", "a.toml"], "0.0.0.0:1"),
        (["--page", "127.0.0.1:80x", "a.toml"], "127.0.0.1:80x"),  # refused later, with its reason
        (["a.toml"], None),
    ],
)
def test_page_may_stand_without_an_address(words, page):
    from typer.main import get_command

    command = get_command(app).commands["serve"]
    assert isinstance(command, ServeCommand)
    assert command.make_context("serve", list(words)).params["page"] == page
