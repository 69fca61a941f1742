"""Times that processes wait for each other stand in one file, so that they can be read side by side."""

import ast
import re
from pathlib import Path

import pytest

import duckweed
from duckweed.net import timeouts

SOURCE = Path(duckweed.__file__).parent
ROOMS = ("net", "swarm", "process", "volunteer", "round")
WAITS = {"sleep", "within", "wait", "wait_for", "call_later", "timeout"}
# What is measured and compared, not waited for.
MEASURED = {"preflight.py:QUICK", "preflight.py:WORK", "doctor.py:CLOCK"}


def modules():
    return [
        path
        for room in ROOMS
        for path in (SOURCE / room).rglob("*.py")
        if path != Path(timeouts.__file__)
    ]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_other_module_has_a_constant_in_seconds(path):
    found = re.findall(r"^([A-Z_]+) = [-\d.]+  # seconds\b", path.read_text("utf-8"), re.M)
    assert {f"{path.name}:{name}" for name in found} <= MEASURED


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_waits_for_a_number_of_seconds_that_has_no_name(path):
    numbers = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        given = [*node.args[:1]] if name in WAITS else []
        given += [k.value for k in node.keywords if k.arg in ("timeout", "patience")]
        numbers += [
            f"line {node.lineno}"
            for x in given
            if isinstance(x, ast.Constant) and isinstance(x.value, int | float) and x.value
        ]
    assert not numbers


def test_every_time_says_what_it_is():
    lines = Path(timeouts.__file__).read_text("utf-8").splitlines()
    named = [line for line in lines if re.match(r"[A-Z_]{2,} = ", line)]
    assert len(named) > 40
    assert all("  # " in line for line in named)


def test_times_that_depend_on_each_other_do():
    assert timeouts.PATIENCE > timeouts.POLL
    assert timeouts.PING_AFTER > timeouts.POLL
    assert timeouts.SILENCE[0] > 2 * timeouts.BEAT
    assert timeouts.TCP_IDLE_SERVER > timeouts.TCP_IDLE
