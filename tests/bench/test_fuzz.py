"""A short, seeded bombardment of a real run: it takes no notice, counts, and keeps its memory."""

import os

import pytest

from bench.fuzz.whole import fuzz

pytestmark = pytest.mark.slow


def test_nonsense_has_no_effect_but_to_be_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", os.environ["XDG_CACHE_HOME"])
    monkeypatch.chdir(tmp_path)
    told = fuzz(300, 7, tmp_path, rounds=8, steps=40)
    assert told["bit for bit the run without it"]
    assert told["members"] == 2  # no stranger has become one
    counted = told["counted by the coordinator"]
    assert counted["malformed"] > 10
    assert counted["not admitted"] > 5
    assert counted["connections: cut off after too much nonsense"] > 5
    assert sum(counted.values()) > 200
    growth = told["memory"]["after"] - told["memory"]["before"]
    assert growth < 30_000_000
    assert told["betrayed run: rounds closed"] == 8
    assert told["forged contributions that counted"] == 0
    assert told["counted of the betrayer"]["contributions"] > 3
    ends = {how for ways in told["misled"].values() for how in ways}
    assert any(how.startswith("the peer stopped") for how in ends)
    stopped = ("PeerStopped", "LinkError", "MergeError", "WireError", "ValueError")
    assert ends <= {
        "given",
        "the peer went on asking",
        *(f"the peer stopped: {e}" for e in stopped),
    }
