"""Real campaigns decided once more from their ledgers: each decision must come out as it stands there."""

import gzip
import json
from pathlib import Path

import msgspec
import pytest

from duckweed.evolve.decide.campaign import begin, campaign
from duckweed.evolve.decide.requests import (
    AskAllowed,
    AskBudget,
    AskProposals,
    Record,
    RequireBudget,
    RerunTrial,
    RunTrials,
    Settings,
)
from duckweed.evolve.space.plain_recipe import plain_recipe
from duckweed.evolve.space.switches import registry
from duckweed.evolve.trial_spec import Proposal, TrialResult
from duckweed.run import spec as specs

LEDGERS = Path(__file__).parents[3] / "bench" / "results" / "evolve"
ASIDE = ("genesis", "trial", "failure", "guest", "audit", "reveal", "plants", "stop")


def alike(a: object, b: object) -> bool:
    """Equal, numbers to six digits: another processor may round the last ones otherwise."""
    if isinstance(a, float) and isinstance(b, float):
        return a == pytest.approx(b, rel=1e-6, abs=1e-9)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b


@pytest.mark.parametrize("name", ["small/campaign", "nulls"])
def test_a_real_campaign_decides_again_what_its_ledger_says(name, tmp_path):
    lines = gzip.decompress((LEDGERS / f"{name}.jsonl.gz").read_bytes()).splitlines()
    entries = [json.loads(line) for line in lines]
    trials = [entry["body"] for entry in entries if entry["kind"] == "trial"]
    results = {body["cell"]: msgspec.convert(body["result"], TrialResult) for body in trials}
    ran = [body["what"]["recipe"] for body in trials]
    rest = [entry for entry in entries if entry["kind"] not in ASIDE]
    genesis = entries[0]["body"]
    switches = registry(1)
    assert switches.identity == genesis["registry"]
    (tmp_path / "plain.toml").write_text(genesis["plain"])
    plain = plain_recipe(specs.load(tmp_path / "plain.toml"), switches)
    steps = campaign(begin(msgspec.convert(genesis["settings"], Settings, strict=False)), plain)

    def take(kind):
        entry = rest.pop(0)
        assert entry["kind"] == kind
        return entry

    answer = None
    while rest:
        match steps.send(answer):
            case RunTrials(groups, _):
                answer = [[results[trial.id] for trial in group] for group in groups]
            case RerunTrial(trial):
                again = take("check")["body"]["result"]
                answer = results[trial.id], msgspec.convert(again, TrialResult)
            case AskProposals():
                answer = msgspec.convert(take("proposals")["body"]["proposals"], list[Proposal])
            case AskAllowed(recipes):
                answer = [recipe in ran for recipe in recipes]
            case AskBudget():
                answer = take("afford")["body"]["paid"]
            case RequireBudget():
                answer = None
            case Record(decision):
                entry = take(decision.kind)
                assert alike(msgspec.json.decode(msgspec.json.encode(decision)), entry["body"])
                answer = entry["hash"]
