"""Trials and the evaluator: the same trial gives the same weights; what is exported is not believed."""

import json
import math

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from duckweed.evolve.campaign.journal import Journal
from duckweed.evolve.entries import CampaignEntry, TrialEntry
from duckweed.evolve.trial_spec import TrialSpec
from duckweed.evolve.trials.evaluator import Evaluator
from duckweed.evolve.trials.text_split import read
from duckweed.evolve.trials.trial import Declared, TrialError, TrialPlanner
from duckweed.evolve.trials.trial import train as train_trial
from duckweed.learn.data.dataset import Dataset
from evolve.tiny_campaign import campaign, trial


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder, journal, plain = campaign(tmp_path_factory.mktemp("ground"))
    journal.close()
    dataset = Dataset.open(folder.training)
    evaluator = Evaluator(TrialPlanner.of(folder), folder.held)

    def train(asked, name):
        out = folder.path / "out" / name
        train_trial(TrialPlanner.of(folder), dataset, asked, out)
        return out

    return folder, plain, evaluator, train


@pytest.fixture
def exported(ground, request):
    _folder, plain, _, train = ground
    asked = trial(plain)
    return asked, train(asked, request.node.name)


def test_a_trial_run_again_gives_the_same_weights_and_loss_bit_for_bit(ground):
    _, plain, evaluator, train = ground
    asked = trial(plain | {"inner.optimizer": "muon"}, seed=7)
    one, two = (evaluator.evaluate(asked, train(asked, f"again{i}")) for i in (0, 1))
    assert one == two
    assert one.loss is not None
    assert one.weights
    other = evaluator.evaluate(
        trial(asked.recipe, seed=8), train(trial(asked.recipe, seed=8), "other")
    )
    assert other.weights != one.weights


def test_a_trial_spends_its_budget_and_no_more(ground):
    _, plain, evaluator, train = ground
    asked = trial(plain)
    result = evaluator.evaluate(asked, train(asked, "budget"))
    spec, cost = TrialPlanner.of(ground[0]).plan(asked)
    tokens = spec.inner.batch * spec.model.sequence
    spent = cost.step(tokens) * spec.inner.steps
    assert spent <= asked.budget < spent + cost.step(tokens)
    assert result.flops > spent  # evaluation counts as research compute
    assert result.tokens == tokens * spec.inner.steps


def test_muon_pays_for_its_own_arithmetic(ground):
    folder, plain, _, _ = ground
    steps = [
        TrialPlanner.of(folder).plan(trial(plain | change))[0].inner.steps
        for change in (
            {},
            {"inner.optimizer": "muon"},
            {"inner.optimizer": "muon", "inner.iterations": 8},
        )
    ]
    assert steps[0] > steps[1] > steps[2]


def test_the_schedule_is_stretched_to_the_budget(ground):
    folder, plain, _, _ = ground
    short, long = (TrialPlanner.of(folder).plan(trial(plain, budget=b))[0] for b in (1e9, 4e9))
    assert long.inner.warmup / long.total_steps == pytest.approx(
        short.inner.warmup / short.total_steps, abs=0.03
    )
    assert long.total_steps >= 4 * short.total_steps


def test_a_larger_size_has_about_as_many_times_the_parameters(ground):
    folder, plain, _, _ = ground
    costs = [TrialPlanner.of(folder).plan(trial(plain, size=size))[1] for size in (1, 2)]
    assert costs[1].parameters / costs[0].parameters == pytest.approx(2, rel=0.25)


def test_the_three_texts_share_no_document_and_trials_hold_no_held_out_token(ground):
    folder, *_ = ground
    dataset = Dataset.open(folder.training)
    assert len(dataset.held_out) == 0

    def documents(tokens):
        return {part for part in bytes(np.asarray(tokens)).split(b"\0") if part}

    sets = [
        documents(dataset.train),
        *(documents(read(folder.held, n)[0]) for n in ("select", "vault")),
    ]
    assert all(sets)
    assert not sets[0] & sets[1]
    assert not sets[0] & sets[2]
    assert not sets[1] & sets[2]
    sizes = [len(b"".join(s)) for s in sets[1:]]
    assert 0.8 < sizes[0] / sizes[1] < 1.25


def test_bits_per_byte_are_those_of_the_text(ground, exported):
    """Recomputed here by another way: one window at a time, in double precision."""
    folder, _, evaluator, _ = ground
    asked, out = exported
    result = evaluator.evaluate(asked, out)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float64).eval()
    tokens, facts = read(folder.held, "select")
    windows = (tokens.size - 1) // 32
    count = min(windows, 32768 // 32)
    nats = 0.0
    for i in range(count):
        start = i * windows // count * 32
        window = torch.from_numpy(tokens[start : start + 33].astype(np.int64))[None]
        with torch.no_grad():
            logits = model(input_ids=window[:, :-1]).logits[0]
        nats += float(torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum"))
    ends = int((np.asarray(tokens) == 0).sum())
    assert facts.bytes == facts.tokens - ends
    expected = nats / (count * 32) / math.log(2) * facts.tokens / facts.bytes
    assert result.loss == pytest.approx(expected, abs=1e-5)


def test_the_vault_is_another_text(ground, exported):
    _, _, evaluator, _ = ground
    asked, out = exported
    vault = TrialSpec(asked.recipe, asked.seed, asked.budget, 1, "vault")
    assert evaluator.evaluate(vault, out).loss != evaluator.evaluate(asked, out).loss


def test_weights_that_are_not_finite_are_a_loss(ground, exported):
    _, _, evaluator, _ = ground
    asked, out = exported
    weights = load_file(out / "model.safetensors")
    weights["lm_head.weight"][0, 0] = float("nan")
    save_file(weights, out / "model.safetensors")
    result = evaluator.evaluate(asked, out)
    assert result.loss is None
    assert result.value == math.inf
    assert "not finite" in result.reason


@pytest.mark.parametrize(
    "damage", ["tokens", "steps", "shape", "extra", "config", "cut", "gone", "long"]
)
def test_an_export_that_is_not_what_was_asked_for_is_refused(ground, exported, damage):
    _, _, evaluator, _ = ground
    asked, out = exported
    declared = json.loads((out / "declared.json").read_text())
    config = json.loads((out / "config.json").read_text())
    weights = load_file(out / "model.safetensors")
    if damage == "tokens":
        declared["tokens"] //= 2
    elif damage == "steps":
        declared["steps"] *= 2
    elif damage == "shape":
        weights["lm_head.weight"] = weights["lm_head.weight"][:, :-1].contiguous()
    elif damage == "extra":
        weights["model.memory"] = torch.zeros(3)
    elif damage == "config":
        config["hidden_size"] *= 2
    (out / "declared.json").write_text(json.dumps(declared))
    (out / "config.json").write_text(json.dumps(config) + (" " * 70000 if damage == "long" else ""))
    save_file(weights, out / "model.safetensors")
    if damage == "cut":
        data = (out / "model.safetensors").read_bytes()
        (out / "model.safetensors").write_bytes(data[: len(data) // 2])
    elif damage == "gone":
        (out / "model.safetensors").unlink()
    result = evaluator.evaluate(asked, out)
    assert result.loss is None
    assert result.reason
    assert result.flops > 0  # it was spent all the same


def test_a_run_that_diverges_is_a_loss_with_a_reason(ground):
    _, plain, evaluator, train = ground
    wild = plain | {"inner.learning_rate": 0.1, "architecture.initial": 0.2, "inner.clip": 10.0}
    asked = trial(wild | {"inner.weight_decay": 1.0})
    out = train(asked, "wild")
    (out / "declared.json").write_bytes(
        msgspec.json.encode(
            msgspec.structs.replace(
                msgspec.json.decode((out / "declared.json").read_bytes(), type=Declared),
                diverged="the loss became nan",
            )
        )
    )
    result = evaluator.evaluate(asked, out)
    assert result.loss is None
    assert "diverged" in result.reason


def test_too_small_a_budget_is_refused_before_anything_is_trained(ground):
    folder, plain, _, _ = ground
    with pytest.raises(TrialError, match="steps"):
        TrialPlanner.of(folder).plan(trial(plain, budget=1e6))


def test_a_trial_is_run_again_from_the_ledger_alone(ground, tmp_path):
    _folder, plain, evaluator, train = ground
    asked = trial(plain | {"inner.final": 0.0}, seed=99)
    journal = Journal(tmp_path)
    journal.note(CampaignEntry(journal.key))
    journal.trial(asked, evaluator.evaluate(asked, train(asked, "first")), "screening")
    journal.close()
    journal = Journal(tmp_path)
    body = next(journal.ledger.entries(TrialEntry)).body
    journal.close()
    again = body.what
    found = evaluator.evaluate(again, train(again, "from-ledger"))
    assert found.weights == body.result.weights
    assert found.loss == body.result.loss
