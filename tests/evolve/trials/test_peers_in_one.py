"""Trials of several peers: the rounds of a real run, whose bytes and weights cannot be made up."""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from duckweed.evolve.space.recipe import idle, specification
from duckweed.evolve.space.switches import SWARM
from duckweed.evolve.trials.evaluator import Evaluator
from duckweed.evolve.trials.peers_in_one import Exchange
from duckweed.evolve.trials.trial import EXCHANGE, TrialPlanner, taken
from duckweed.evolve.trials.trial import train as train_trial
from duckweed.learn.data import preparation
from duckweed.learn.data.dataset import Dataset
from duckweed.learn.model import model as models
from duckweed.learn.registry import learner
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import load_or_create
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.round.founding import Ground, first_gradient
from duckweed.run import folder as folders
from duckweed.run.state import first
from duckweed.wire import codec_of
from evolve.tiny_campaign import campaign
from evolve.tiny_campaign import trial as tiny_trial

BUDGET = 5e8  # some four rounds
SPARSE = {"wire.kind": "sparse", "merge.rule": "contributors", "outer.optimizer": "none"}
# Muon costs more: fewer steps in each of three rounds.
MUON = {"inner.state": "kept", "inner.optimizer": "muon", "inner.steps": 2}


def trial(recipe):
    return tiny_trial(recipe, budget=BUDGET)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder, journal, plain = campaign(tmp_path_factory.mktemp("ground"), peers=2)
    journal.close()
    evaluator = Evaluator(TrialPlanner.of(folder), folder.held)
    return folder, plain, evaluator, Dataset.open(folder.training)


@pytest.fixture
def train(ground, tmp_path):
    folder, _, _, dataset = ground

    def one(asked, name="out"):
        train_trial(TrialPlanner.of(folder), dataset, asked, tmp_path / name)
        return tmp_path / name

    return one


@pytest.fixture(scope="module")
def made(ground, tmp_path_factory):
    """The plain recipe's trial, trained once."""
    folder, plain, _, dataset = ground
    out = tmp_path_factory.mktemp("made") / "out"
    train_trial(TrialPlanner.of(folder), dataset, trial(plain), out)
    return out


@pytest.fixture
def exported(made, tmp_path):
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def read(out):
    return msgspec.msgpack.decode((out / EXCHANGE).read_bytes(), type=Exchange)


@pytest.mark.parametrize("change", [{}, SPARSE, {"inner.state": "kept"}, MUON], ids=str)
def test_a_trial_ends_where_a_run_of_its_specification_ends(ground, train, tmp_path, change):
    """The weights are those of a simulated run, which are those of a run with processes."""
    folder, plain, _, dataset = ground
    asked = trial(plain | change)
    out = train(asked)
    spec, _ = TrialPlanner.of(folder).plan(asked)
    config = TrialPlanner.of(folder).configuration(spec, 1)
    model = models.build(config, "cpu", spec.seed, spec.architecture.zero_projections)
    layout = models.layout_of(model)
    weights = models.read_weights(model)
    shared = codec_of(spec.wire, layout).first_shared(
        lambda: first_gradient(spec, learner(spec, config, dataset, "cpu"), weights)
    )
    state = first(layout, weights, shared)
    run = folders.create(tmp_path, "run")
    key = load_or_create(run.coordinator_key)
    whole = preparation.prepare(spec.data, folder.path.parent, tmp_path / "cache")
    on = Ground(folder.path, whole)  # the same training text; a run evaluates as well
    ledger = Ledger(run.ledger, key.sign)
    ledger.append(0, founding.genesis(spec, on, layout, state, key.id))
    ledger.close()
    end = Simulation(run, spec, layout, on, state, "cpu").run()
    found = models.build(config, "cpu")
    found.load_state_dict(load_file(out / "model.safetensors"), strict=False)
    assert spec.rounds.count >= 3
    assert np.array_equal(models.read_weights(found), end.weights)


@pytest.mark.parametrize("change", [{}, SPARSE], ids=str)
def test_bytes_are_those_of_the_blobs_and_flops_of_every_step(ground, train, change):
    folder, plain, evaluator, _ = ground
    asked = trial(plain | change)
    out = train(asked)
    result = evaluator.evaluate(asked, out)
    spec, cost = TrialPlanner.of(folder).plan(asked)
    rounds = read(out).rounds
    assert result.loss is not None, result.reason
    sent = [sum(len(r[peer][1]) for r in rounds) for peer in (0, 1)]
    assert result.sent == max(sent)
    if change:  # no exact sum: what both have sent is fetched
        assert result.fetched == sum(sent)
    tokens = spec.inner.batch * spec.model.sequence
    steps = taken(spec)
    measuring = 0 if change else spec.inner.steps
    assert steps == 2 * spec.rounds.count * spec.inner.steps + measuring
    assert result.tokens == steps * tokens
    assert steps * cost.step(tokens) <= asked.budget
    assert evaluator.evaluate(asked, train(asked, "again")) == result


def changed(exchange, how):
    rounds = [list(handed) for handed in exchange.rounds]
    first, blob = rounds[1][0]
    if how == "fewer rounds":
        rounds = rounds[:-1]
    elif how == "a peer less":
        rounds[1] = rounds[1][:1]
    elif how == "more weight":
        rounds[1][0] = msgspec.structs.replace(first, tokens=first.tokens * 2), blob
    elif how == "another blob":
        rounds[1][0] = first, rounds[2][0][1]
    elif how == "no blob":
        rounds[1][0] = first, b""
    elif how == "others' rounds":
        rounds[1], rounds[2] = (
            [(msgspec.structs.replace(a, round=n), b) for a, b in rounds[m]]
            for n, m in ((1, 2), (2, 1))
        )
    return msgspec.structs.replace(exchange, rounds=rounds)


@pytest.mark.parametrize(
    "how", ["fewer rounds", "a peer less", "more weight", "another blob", "no blob", "others' rounds"]
)  # fmt: skip
def test_rounds_that_did_not_make_the_weights_are_refused(ground, exported, how):
    _, plain, evaluator, _ = ground
    assert evaluator.evaluate(trial(plain), exported).loss is not None
    (exported / EXCHANGE).write_bytes(msgspec.msgpack.encode(changed(read(exported), how)))
    result = evaluator.evaluate(trial(plain), exported)
    assert result.loss is None
    assert result.reason


@pytest.mark.parametrize("how", ["weights", "gone", "not one", "huge"])
def test_weights_without_their_rounds_are_refused(ground, exported, how):
    _, plain, evaluator, _ = ground
    path = exported / EXCHANGE
    if how == "weights":
        weights = load_file(exported / "model.safetensors")
        weights["model.norm.weight"] += 1e-3
        save_file(weights, exported / "model.safetensors")
    elif how == "gone":
        path.unlink()
    elif how == "not one":
        path.write_bytes(b"\x93\x01\x02\x03")
    else:
        with path.open("ab") as file:
            file.truncate(1 << 30)
    assert evaluator.evaluate(trial(plain), exported).loss is None


def test_who_talks_more_than_is_allowed_loses(ground, train):
    folder, plain, evaluator, _ = ground
    loud = trial(plain | {"wire.kind": "dense", "wire.dtype": "fp32"})
    result = evaluator.evaluate(loud, train(loud))
    assert result.loss is None
    assert "bytes" in result.reason
    allowed = TrialPlanner.of(folder).allowance(loud)
    louder = msgspec.structs.replace(loud, recipe=loud.recipe | {"inner.batch": 1})
    # what is allowed follows from the FLOPs, not from what a proposal makes of them
    assert TrialPlanner.of(folder).allowance(louder) == allowed


def test_every_value_of_every_switch_of_the_exchange_applies(ground):
    folder, plain, _, _ = ground
    for switch in SWARM.switches:
        for value in switch.values or (switch.low, switch.high):
            recipe = plain | {switch.key: switch.check(value)}
            if switch.key == "merge.rule" and value == "contributors":
                recipe |= {"wire.kind": "sparse"}
            specification(folder.plain(), recipe)


@pytest.mark.parametrize(
    ("parent", "change"),
    [
        ({}, {"wire.keep": 16, "wire.chunk": 1024, "wire.dtype": "fp32"}),
        (SPARSE, {"wire.threshold": 3.0, "wire.value": 4.0, "wire.levels": 7}),
        (SPARSE, {"outer.learning_rate": 0.05, "outer.momentum": 0.9, "inner.guide": 0.5}),
        ({"inner.state": "kept"}, {"inner.guide": 0.5}),  # AdamW
        (MUON | {"inner.state": "fresh"}, {"inner.guide": 0.5}),
    ],
    ids=str,
)
def test_what_is_called_idle_changes_nothing(ground, train, parent, change):
    _, plain, evaluator, _ = ground
    before, after = trial(plain | parent), trial(plain | parent | change)
    assert set(change) <= idle(after.recipe)
    one, two = (
        evaluator.evaluate(asked, train(asked, name))
        for asked, name in ((before, "a"), (after, "b"))
    )
    assert one.weights
    assert one == two
