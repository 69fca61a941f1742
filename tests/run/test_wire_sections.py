import pytest

from duckweed.run.spec import RunSpec, SpecError, override, parse
from duckweed.wire import codec_type
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Integer
from duckweed.wire.codecs.sparse import Sparse


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ('kind = "dense"', Dense("bf16", 0.0)),
        ('kind = "dense"\ndtype = "int8"\nfeedback = 1.0', Dense("int8", 1.0)),
        ('kind = "sparse"\nkeep = 32', Sparse(4096, 32, 0.95)),
        ('kind = "integer"\nthreshold = 2.0', Integer(2.0, 1.5, 1, 1.0)),
    ],
)
def test_section_of_run_toml(text, wire):
    assert parse(f"[wire]\n{text}").wire == wire


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"kind": "sparse", "keep": 0}, "wire.keep = 0: must be between 1 and 4096"),
        ({"kind": "sparse", "chunk": 8, "keep": 9}, "wire.keep = 9: must be between 1 and 8"),
        ({"kind": "integer", "levels": 128}, "wire.levels = 128: must be between 1 and 127"),
        ({"kind": "integer", "threshold": -0.1}, "wire.threshold = -0.1"),
        ({"kind": "integer", "value": 0.0}, "wire.value = 0.0"),
        ({"kind": "dense", "feedback": 1.5}, "wire.feedback = 1.5: must be between 0 and 1"),
        ({"kind": "dense", "dtype": "fp8"}, "fp8"),
        ({"kind": "dense", "keep": 3}, "keep"),
        ({"kind": "topk"}, "topk"),
    ],
)
def test_bad_settings_name_the_field_and_the_range(section, says):
    with pytest.raises(SpecError, match=says):
        override(RunSpec(), {f"wire.{key}": value for key, value in section.items()})


def test_nan_is_not_a_threshold():
    with pytest.raises(ValueError, match="threshold"):
        Integer(threshold=float("nan"))


def test_only_the_integer_wire_adds_up():
    assert [codec_type(wire).additive for wire in (Dense(), Sparse(), Integer())] == [
        False,
        False,
        True,
    ]
