"""What run.toml may say, and what it is told when it says something else."""

import itertools
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duckweed.run import toml
from duckweed.run.spec import RunSpec, SpecError, load, override, parse

ERRORS = {
    "inner.stpes": (3, ["inner.stpes", "did you mean 'steps'", "learning_rate"]),
    "innr.steps": (3, ["no section 'innr'", "did you mean 'inner'"]),
    "seed.steps": (3, ["no section 'seed'"]),
    "sede": (3, ["sede", "did you mean 'seed'"]),
    "inner.steps": (0, ["inner.steps = 0", "between 1 and 100000"]),
    "inner.batch": ("eight", ["inner.batch", "`int`", "`str`"]),
    "inner.betas": ([0.9], ["inner.betas", "length 2"]),
    "inner.optimizer": ("moun", ["inner.optimizer", "'adamw', 'muon'", "did you mean 'muon'"]),
    "inner.learning_rate": (float("nan"), ["inner.learning_rate", "between"]),
    "merge.rule": ("average", ["merge.rule", "'mean', 'contributors', 'bounded', 'filtered'"]),
    "wire.kind": ("sprase", ["wire.kind", "'dense', 'sparse', 'integer'", "'sparse'?"]),
    "wire.treshold": (1.0, ["wire.treshold", "did you mean 'threshold'"]),
    "wire.threshold": (-1.0, ["wire.threshold = -1", "between 0 and 1000"]),
    "wire.levels": (200, ["wire.levels = 200", "between 1 and 127"]),
    "data.held_out": (2.0, ["data: held_out = 2.0", "(0, 1]"]),
    "seed": (1 << 70, ["seed", "between 0 and"]),
    "rounds.patience": (float("nan"), ["rounds.patience", "between 1 and"]),
}


@pytest.mark.parametrize("key", ERRORS)
def test_an_error_names_the_key_what_was_expected_and_what_is_near(key):
    value, parts = ERRORS[key]
    with pytest.raises(SpecError) as error:
        override(RunSpec(), {key: value})
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[innner]\nsteps = 3", ["my.toml", "innner", "did you mean 'inner'"]),
        ("inner = 3", ["my.toml", "inner", "`object`"]),
        ("seed = ", ["my.toml", "not valid TOML"]),
        ("[wire]\nkeep = 3", ["wire", "kind"]),
        ("[wire]\nkind = 'sparse'\nkep = 3", ["wire.kep", "did you mean 'keep'"]),
    ],
)
def test_a_file_with_an_error_is_named(text, parts):
    with pytest.raises(SpecError) as error:
        parse(text, "my.toml")
    for part in parts:
        assert part in str(error.value)


def test_files_that_are_no_specification(tmp_path):
    with pytest.raises(SpecError, match="duckweed new"):
        load(tmp_path / "missing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        load(tmp_path / "binary.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (1 << 19))
    with pytest.raises(SpecError, match="larger than"):
        load(tmp_path / "large.toml")


def test_combinations_that_make_no_sense():
    with pytest.raises(SpecError, match=r"merge\.rule = 'contributors'.*sparse"):
        override(RunSpec(), {"merge.rule": "contributors"})
    with pytest.raises(SpecError, match=r"inner\.warmup = 20.*only 6 steps"):
        override(RunSpec(), {"inner.steps": 3, "rounds.count": 2})


def test_open_runs_are_audited_unless_their_work_cannot_be_done_again_elsewhere():
    def audits(**changes):
        return override(RunSpec(), changes).audits

    assert audits() == 0.0
    assert audits(**{"members.join": "open"}) == 0.05
    assert audits(**{"members.join": "open", "members.audits": 0.0}) == 0.0
    assert audits(**{"members.audits": 0.2}) == 0.2
    assert audits(**{"members.join": "open", "rounds.overlap": 0.5}) == 0.0
    reinforce = {"task.kind": "reinforce", "inner.batch": 16}
    assert audits(**{"members.join": "open"}, **reinforce) == 0.0
    for other in ({"rounds.overlap": 0.5}, reinforce):
        with pytest.raises(SpecError, match=r"members\.audits: .*set .*members\.audits = 0"):
            audits(**{"members.audits": 0.2}, **other)


def test_another_kind_of_wire_starts_from_its_own_defaults():
    spec = override(RunSpec(), {"wire.keep": 5, "wire.kind": "sparse"})
    assert (spec.wire.chunk, spec.wire.keep) == (4096, 5)
    same = override(spec, {"wire.kind": "sparse", "wire.chunk": 128})
    assert (same.wire.chunk, same.wire.keep) == (128, 5)


def test_a_description_is_kept_and_a_run_without_one_has_the_identity_that_it_had():
    spec = override(RunSpec(), {"description": 'Why?\nTo see "whether" it works.'})
    assert parse(toml.write(spec, notes=True)) == spec
    assert spec.identity != RunSpec().identity
    assert "description" not in toml.write(RunSpec())
    for odd, words in (("x" * 2001, "2,001 characters"), ("a\x1b[2J", "only text and line")):
        with pytest.raises(SpecError, match=words):
            override(RunSpec(), {"description": odd})


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    names,
    st.one_of(names, st.lists(names, min_size=1)),
    st.integers(0, (1 << 63) - 1),
    st.floats(1e-8, 10),
    st.sampled_from(["dense", "sparse", "integer"]),
    st.booleans(),
)
def test_a_written_specification_reads_back_the_same(field, path, seed, rate, kind, notes):
    changes = {
        "data.field": field,
        "data.path": path,
        "seed": seed,
        "inner.learning_rate": rate,
        "wire.kind": kind,
    }
    spec = override(RunSpec(), changes)
    back = parse(toml.write(spec, notes))
    assert back == spec
    assert back.identity == spec.identity


CHANGES = {
    "seed": 1,
    "data.path": "elsewhere",
    "data.field": "body",
    "data.tokenizer": "bpe:300",
    "data.held_out": 0.1,
    "data.limit": 5,
    "data.encoding": "cp1252",
    "model.source": "llama-15m",
    "model.weights": "given",
    "model.sequence": 64,
    "architecture.family": "qwen3",
    "architecture.activation": "gelu",
    "architecture.tied": True,
    "architecture.attention_bias": True,
    "architecture.mlp_bias": True,
    "architecture.norm_epsilon": 1e-4,
    "inner.optimizer": "adamw",
    "inner.schedule": "cosine",
    "inner.state": "fresh",
    "inner.precision": "fp32",
    "inner.guide": 0.2,
    "inner.betas": [0.9, 0.99],
    "wire.kind": "dense",
    "merge.rule": "bounded",
    "outer.optimizer": "none",
    "outer.momentum": 0.5,
    "rounds.overlap": 0.5,
    "members.join": "open",
    "members.keys": ["ab" * 32],
    "members.successors": ["anna:" + "cd" * 32, "ben:" + "ef" * 32],
}


def keys(value, prefix=""):
    for name, inside in value.items():
        if isinstance(inside, dict):
            yield from keys(inside, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inside


def test_every_key_is_part_of_the_identity():
    seen = {RunSpec().identity}
    for key, value in keys(msgspec.to_builtins(RunSpec())):
        other = CHANGES.get(key, value / 2 if isinstance(value, float) else None)
        if isinstance(value, bool):
            other = not value
        elif value is None and other is None:
            other = 2  # of the architecture, as the source has it
        elif other is None:
            other = value - 1 if value > 1 else value + 1
        seen.add(override(RunSpec(), {key: other}).identity)
    assert len(seen) == 1 + sum(1 for _ in keys(msgspec.to_builtins(RunSpec())))


def test_the_identity_does_not_depend_on_the_way_to_a_specification():
    spec = override(RunSpec(), {"seed": 5, "wire.kind": "sparse", "merge.rule": "contributors"})
    orders = [{"seed": 5}, {"wire.kind": "sparse"}, {"merge.rule": "contributors"}]
    for first, second in itertools.permutations(orders[:2]):
        assert override(override(RunSpec(), first | second), orders[2]).identity == spec.identity


def test_peers_that_only_write_are_named_in_reinforcement_learning_alone_and_leave_other_runs_as_they_were():
    reinforce = {"task.kind": "reinforce", "inner.batch": 16}
    spec = override(RunSpec(), reinforce)
    assert not spec.no_writers
    assert "writers" not in toml.write(spec)
    assert override(spec, {"task.writers": 1}).identity != spec.identity
    assert [override(spec, {"task.writers": 2}).only_writes(n) for n in range(5)] == [
        False, False, True, True, False,
    ]  # fmt: skip
    assert "reinforcement learning" in RunSpec().no_writers
    for other, words in (
        ({"rounds.overlap": 0.5}, "overlap"),
        ({"members.join": "open"}, "task.ratio = 'cispo'"),
        ({"members.join": "open", "task.ratio": "cispo", "task.kl": 0.01}, "task.kl"),
        ({"rounds.count": 2, "task.staleness": 2, "inner.warmup": 0}, "nobody would learn"),
        ({"rounds.peers": 2, "task.writers": 2}, "somebody has to train"),
    ):
        with pytest.raises(SpecError, match=re.escape(words)):
            override(spec, {"task.writers": 1} | other)
    assert not override(spec, {"members.join": "open", "task.ratio": "cispo"}).no_writers
