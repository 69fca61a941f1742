"""A short, seeded bombardment of a real run, and lies in every field to a simulated one: they take no
notice, count, and keep their memory."""

import os
import random

import msgspec
import pytest

from bench.fuzz import impostor
from bench.fuzz.liar import KINDS
from bench.fuzz.lies import lied, lies, paths, plan
from bench.fuzz.whole import fuzz
from duckweed.swarm.protocol import messages as m


def test_every_field_of_every_question_is_lied_about():
    told = {(kind, told[0][0]) for kind, told in plan(KINDS, 10**5, random.Random(1))}
    for kind in KINDS:
        for name in kind.__struct_fields__:
            assert (kind, (name,)) in told
    assert (m.Contribute, ("timings", "wall")) in told
    assert (m.Contribute, ("announcement", "tokens")) in told


def test_a_lie_is_in_one_field_and_the_message_stays_as_it_was():
    honest = m.Progress("training", 1, 2, 3.0)
    for path, of in paths(m.Progress):
        for value in lies(of):
            changed = lied(honest, path, value)
            others = [n for n in honest.__struct_fields__ if n != path[0]]
            assert all(getattr(changed, n) == getattr(honest, n) for n in others)
    assert honest == m.Progress("training", 1, 2, 3.0)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_decoded_has_only_numbers_that_are_finite_and_text_that_is_plain(kind):
    """Whatever a question says, once it is a question."""
    rest = msgspec.msgpack.Decoder()
    for path, of in paths(kind):
        for value in lies(of):
            try:
                alone = msgspec.convert({path[-1]: value}, type=dict)
                decoded = m.question(
                    msgspec.msgpack.encode(alone | {"is": kind.__struct_config__.tag})
                )
            except (ValueError, OverflowError, TypeError, RecursionError):
                continue
            for field in rest.decode(m.encode(decoded)).values():
                if isinstance(field, float | int):
                    assert -1 <= field <= 1e16
                if isinstance(field, str):
                    assert field.isprintable()


@pytest.mark.slow
def test_nonsense_and_lies_have_no_effect_but_to_be_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ["XDG_CACHE_HOME"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(impostor, "ASKING", 1.5)
    told = fuzz(300, 7, tmp_path, rounds=8, steps=40)
    assert told["bit for bit the run without it"]
    assert told["members"] == 2  # no stranger has become one
    counted = told["counted by the coordinator"]
    assert counted["malformed"] > 10
    assert counted["not admitted"] > 5
    assert counted["connections: cut off after too much nonsense"] > 5
    assert sum(counted.values()) > 200
    assert told["flooded"]["opened"] > 250
    growth = told["memory"]["after"] - told["memory"]["before"]
    assert growth < 90_000_000  # half of it for 128 handshakes at the same time
    lies = told["lied to"]
    assert lies["lies"] == 300
    assert lies["rounds closed"] == 10
    assert lies["members"] == 3
    assert lies["rounds without the work of an honest peer"] == 0
    assert lies["bytes of metrics"] < 50_000
    ends = {how for ways in told["misled"].values() for how in ways}
    assert any(how.startswith("the peer stopped") for how in ends)
    stopped = ("PeerStopped", "LinkError", "MergeError", "WireError", "ValueError")
    assert ends <= {
        "given",
        "the peer went on asking",
        *(f"the peer stopped: {e}" for e in stopped),
    }
