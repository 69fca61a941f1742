"""What the commands print: text is never markup, and no terminal ends a command."""

import ast
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures import commands, tiny
from rich.table import Table
from rich.text import Text

from duckweed import cli
from duckweed.cli.common.console import PlainConsole
from duckweed.run import toml

SOURCES = sorted(Path(cli.__file__).parent.rglob("*.py"))
NASTY = "x[/red]y [bold] :warning: [link=http://a]"


def duckweed(base, *words, **environment):
    return subprocess.run(
        [sys.executable, "-m", "duckweed", *words], cwd=base, env=os.environ | environment,
        capture_output=True, timeout=200,
    )  # fmt: skip


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_command_writes_markup_or_has_another_console(path):
    if path.name == "console.py":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            markup = re.search(r"\[/?(bold|dim|red|green|yellow|cyan|italic|/?\])", node.value)
            assert not markup, f"{path.name}:{node.lineno}: {node.value!r}"
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            assert name not in ("Console", "from_markup"), f"{path.name}:{node.lineno}"


def test_brackets_are_printed_as_they_are(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    console = PlainConsole()
    console.print(NASTY, soft_wrap=True)
    with console.status(NASTY) as status:
        status.update(NASTY)
    assert sys.stdout.getvalue() == NASTY + "\n"


def test_no_control_character_reaches_the_terminal_whatever_it_is_a_part_of(monkeypatch):
    evil = "\x1b]52;c;QUFB\x07\x1b[2Jbye\u202e\x9b31m"
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    console, table = PlainConsole(), Table(box=None)
    table.add_column(evil)
    table.add_row(Text(evil, "red"))
    console.print(evil)
    console.print(table, evil)
    printed = sys.stdout.getvalue()
    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()
    assert printed.count("]52;c;QUFB [2Jbye") == 4


def test_a_run_is_not_found_at_a_path_with_brackets(tmp_path):
    ended = duckweed(tmp_path, "show", "x[/red]y")
    assert ended.returncode == 1
    assert b"x[/red]y: no run there" in ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_verdict_is_printed_in_any_encoding(encoding):
    script = (
        "from duckweed.cli.common.console import PlainConsole, use_any_terminal; use_any_terminal(); "
        "PlainConsole().print('3.1 → 2.2 池')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True, timeout=100, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [b"3.1", b"->", b"2.2", b"?"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "environment"),
    [("ascii", {"PYTHONIOENCODING": "ascii"}), ("cp1252", {"PYTHONIOENCODING": "cp1252"}),
     ("dumb", {"TERM": "dumb", "PYTHONIOENCODING": "ascii"})],
)  # fmt: skip
def test_a_run_in_a_folder_with_brackets_on_an_old_terminal(tmp_path, name, environment):
    place = tmp_path / "[data] [/b]"
    spec = tiny.specification(place, {"rounds.peers": 1, "rounds.count": 2, "data.path": "*.txt"})
    (place / "run.toml").write_text(toml.write(spec))
    words = ("train", "run.toml", "--simulate", "--runs", "x[/red]y", "--name", name)
    ended = commands.run(words, place, environment)
    assert ended.returncode == 0, ended.stderr
    assert "It learned" in ended.stdout
    assert " -> " in ended.stdout
    assert f"x[/red]y/{name}/report.html" in ended.stdout
    told = commands.run(["generate", f"x[/red]y/{name}", "--tokens", "5"], place, environment)
    assert told.returncode == 0, told.stderr


PRINTS = """
import sys
from duckweed.cli.common.console import PlainConsole, use_any_terminal
use_any_terminal()
for n in range(1000):
    PlainConsole().print("round", n, "→ 1.5")
    PlainConsole(stderr=True).print("a warning")
sys.exit(7)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_ends_nothing(monkeypatch, unbuffered):
    """A full disk, and a pipe whose other end is closed."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", PRINTS], stdout=full, stderr=full, timeout=100)
    assert done.returncode == 7
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", PRINTS], stdout=writer, stderr=subprocess.PIPE, timeout=100
    )
    os.close(writer)
    assert done.returncode == 7
    assert done.stderr.decode().splitlines() == ["a warning"] * 1000
