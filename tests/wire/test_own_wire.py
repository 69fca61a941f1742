"""A wire in one file (examples/own_wire.py): found by name, trained with, and safe against damage."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from fixtures import tiny
from fixtures.golden import LAYOUT, announce, gathered, numbers

from duckweed.merge.round import fetch_limit
from duckweed.merge.rules import register_rule
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run import toml
from duckweed.run.events import RoundClosed
from duckweed.run.registry import RULES, WIRES
from duckweed.run.spec import RunSpec, SpecError, override, parse
from duckweed.wire import Codec, WireError, codec_of, codec_type, register_wire
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.total import CONTRIBUTIONS

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_wire.py"


@pytest.fixture(autouse=True, scope="module")
def plugin():
    """The example, loaded once as a plugin is; what it registers is forgotten after these tests."""
    with pytest.MonkeyPatch.context() as patch:
        for registry in (WIRES, RULES):
            patch.setattr(registry, "_found", dict(registry._found))
        yield runpy.run_path(str(EXAMPLE))


def sign():
    return override(RunSpec(), {"wire.kind": "sign"})


def test_a_registered_wire_is_named_in_a_specification_as_any_other(plugin):
    spec = parse('[wire]\nkind = "sign"\nfeedback = 0.5')
    assert spec.wire == plugin["Sign"](0.5)
    assert parse(toml.write(spec)) == spec
    assert override(spec, {"wire.kind": "dense"}).wire == Dense()
    with pytest.raises(SpecError, match=r"wire\.kind.*expected one of .*'integer', 'sign'"):
        override(RunSpec(), {"wire.kind": "sing"})
    with pytest.raises(SpecError, match=r"wire\.feedbak: unknown key; did you mean 'feedback'"):
        override(spec, {"wire.feedbak": 1.0})


def test_the_identity_of_other_specifications_does_not_depend_on_a_plugin():
    assert (
        override(RunSpec(), {"seed": 7}).identity
        == "9db608cb36ed011eed71dac65d18474a990e630e4ed106e58cc6b00eded94ae7"
    )


def test_its_blobs_are_one_bit_a_value_and_refused_when_damaged():
    codec, x = codec_of(sign().wire, LAYOUT), numbers(1, LAYOUT.total)
    blob, sent = codec.encode(x, None)
    assert codec.decode(blob, None).values.tobytes() == sent.tobytes()
    assert (np.sign(sent) == np.where(x < 0, -1, 1)).all()
    assert len(blob) == codec.blob_limit == 8 + 4 * len(LAYOUT.names) + -(-LAYOUT.total // 8)
    for damaged in (blob[:-1], blob + b"\0", b"", blob[:8] + b"\xff" * (len(blob) - 8)):
        with pytest.raises(WireError):
            codec.decode(damaged, None)
    with pytest.raises(WireError, match="other wire settings"):
        codec_of(override(sign(), {"wire.feedback": 0.5}).wire, LAYOUT).decode(blob, None)


def test_a_run_with_it_learns(tmp_path):
    changes = {"wire.kind": "sign", "merge.rule": "bounded", "rounds.count": 6, "inner.steps": 10}
    spec = tiny.specification(tmp_path, changes)
    folder, ground, state = tiny.found(tmp_path, "signs", spec)
    Simulation(folder, spec, founding.layout(folder), ground, state, "cpu").run()
    losses = [event.held_out for event in folder.records(RoundClosed)]
    assert losses[-1] < losses[0] - 1


def test_a_rule_asks_for_what_it_needs_and_a_wire_that_does_not_give_it_is_refused():
    def middle(total):
        return np.median([c.values for c in total.contributions], axis=0).astype(np.float32)

    register_rule("middle", middle, needs=[CONTRIBUTIONS])
    spec = override(sign(), {"merge.rule": "middle"})
    handed = []
    for peer in range(3):
        x = numbers(peer, LAYOUT.total)
        blob = codec_of(spec.wire, LAYOUT).encode(x, None).blob
        handed.append((announce(0, peer, blob, x, 8), blob))
    closed, blobs = gathered(spec, LAYOUT, [0.0] * len(LAYOUT.names), handed)
    assert closed.needed() == [a.blob for a, _ in handed]
    assert max(map(len, blobs.values())) <= fetch_limit(spec, LAYOUT)
    with pytest.raises(SpecError, match=r"merge\.rule = 'middle' needs contributions.*'integer'"):
        override(RunSpec(), {"merge.rule": "middle"})
    with pytest.raises(SpecError, match=r"'bounded', 'filtered', 'middle'; did you mean 'middle'"):
        override(RunSpec(), {"merge.rule": "midle"})


def test_a_name_is_taken_once(plugin):
    with pytest.raises(ValueError, match="'sign' is registered already"):
        register_wire(plugin["SignCodec"])
    with pytest.raises(ValueError, match="'mean' is registered already"):
        register_rule("mean", lambda total: total.mean())


def test_a_section_that_is_none_is_refused():
    class Nameless(Codec):
        section = dict

    with pytest.raises(ValueError, match="a section is a Wire"):
        register_wire(Nameless)


def test_every_registered_wire_is_found_by_its_own_name():
    for name in WIRES.names():
        section = WIRES.find(name).section()
        assert section.kind == name
        assert codec_type(section) is WIRES.find(name)
