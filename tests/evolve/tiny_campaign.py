"""A real campaign's folder with the smallest model: real texts, real trials."""

from pathlib import Path

import msgspec
from fixtures import tiny

from duckweed.evolve.campaign.create import create, plain_specification
from duckweed.evolve.campaign.journal import Journal
from duckweed.evolve.decide.requests import Settings
from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.trial_spec import Recipe, TrialSpec
from duckweed.run.sections import Model

SETTINGS = Settings(
    budget=2e9, pilot=4, pairs=8, candidates=3, vault_seeds=2, planned=4, plant=0.5, scale_pairs=1
)


def campaign(
    base: Path, settings: Settings = SETTINGS, peers: int = 1
) -> tuple[CampaignFolder, Journal, Recipe]:
    """A new campaign below `base`: some 200 kB of made-up text, a model of 25,000 parameters."""
    base.mkdir(parents=True, exist_ok=True)
    tiny.specification(base)
    texts = base / "texts"
    texts.mkdir()
    words = tiny.text(40000).split(" ")
    for i in range(200):  # each begins with its own number, so that no two are alike
        (texts / f"{i:03}.txt").write_text(f"{i} " + " ".join(words[i * 200 : (i + 1) * 200]))
    spec = plain_specification("config.json", ["texts"], "bytes", peers)
    data = msgspec.structs.replace(spec.data, held_out=0.15)
    spec = msgspec.structs.replace(spec, data=data, model=Model(source="config.json", sequence=32))
    opened = create(base / "campaign", spec, base, settings)
    return opened.folder, opened.journal, opened.plain


def trial(recipe: Recipe, seed: int = 1, budget: float = 1.5e9, **more: object) -> TrialSpec:
    return TrialSpec(recipe, seed, budget, **more)  # type: ignore[arg-type]
