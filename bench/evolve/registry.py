"""Every known and planted change of the registry alone, against generation 0 at equal FLOPs.

    python -m bench.evolve.registry [--flops 3e11] [--seeds 1] [--rates 0.5,1,2,4] [--preset llama-0.5m]
                                    [--peers 1] [--exchange]

First the learning rate of generation 0 is chosen from `--rates` times 0.004; then each change is
trained beside it on the same seeds, by a campaign's own trials and evaluator. With `--peers` a trial
has several peers; `--exchange` leaves out what one alone could try. Printed: held-out bits per byte,
the difference to generation 0 (positive: better), FLOPs of a step over those of generation 0, and kB
that a peer sends and fetches. Few seeds: a look, not a test.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import mean

import torch

from duckweed.evolve.campaign.create import create, plain_specification
from duckweed.evolve.decide.requests import Settings
from duckweed.evolve.space.plain_recipe import plain_recipe
from duckweed.evolve.space.switches import REGISTRY, registry
from duckweed.evolve.trial_spec import Recipe, TrialResult, TrialSpec
from duckweed.evolve.trials.evaluator import Evaluator
from duckweed.evolve.trials.trial import TrialError, TrialPlanner, train
from duckweed.learn.data.dataset import Dataset
from duckweed.learn.model.architecture import ModelError
from duckweed.run.spec import RunSpec, SpecError


class Bench:
    """A campaign's folder whose trials are run one by one."""

    def __init__(self, place: Path, spec: RunSpec, flops: float) -> None:
        self.spec, self.flops = spec, flops
        campaign = create(place / "campaign", spec, place, Settings(budget=flops))
        campaign.journal.close()
        self.folder = campaign.folder
        self.dataset = Dataset.open(self.folder.training)
        self.planner = TrialPlanner.of(self.folder)
        self.evaluator = Evaluator(self.planner, self.folder.held)

    def run(self, recipe: Recipe, seed: int) -> TrialResult:
        trial, out = TrialSpec(recipe, seed, self.flops), self.folder.path / "out"
        train(self.planner, self.dataset, trial, out)
        found = self.evaluator.evaluate(trial, out)
        shutil.rmtree(out)
        return found

    def step(self, recipe: Recipe) -> float:
        """FLOPs of a step."""
        spec, cost = self.planner.plan(TrialSpec(recipe, 0, self.flops))
        return cost.step(spec.tokens_per_step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flops", type=float, default=3e11)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rates", default="0.5,1,2,4")
    parser.add_argument("--preset", default="llama-0.5m")
    parser.add_argument("--peers", type=int, default=1)
    parser.add_argument("--exchange", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = plain_specification(options.preset, None, "bytes", options.peers)
    with tempfile.TemporaryDirectory() as place:
        _look(Bench(Path(place), spec, options.flops), options)


def _look(bench: Bench, options: argparse.Namespace) -> None:
    switches = registry(options.peers)
    plain = plain_recipe(bench.spec, switches)

    def runs(recipe: Recipe) -> list[TrialResult]:
        return [bench.run(recipe, 100 + seed) for seed in range(options.seeds)]

    key = "inner.learning_rate"
    rates = [bench.spec.inner.learning_rate * float(f) for f in options.rates.split(",")]
    tuned = [(plain | {key: rate}, runs(plain | {key: rate})) for rate in rates]
    for recipe, found in tuned:
        print(f"generation 0, rate {recipe[key]:<8g} {_told(found)}", flush=True)
    parent, zero = min(tuned, key=lambda pair: mean(result.value for result in pair[1]))
    for kind in ("known", "nulls", "harms"):
        for known in getattr(switches, kind):
            if options.exchange and known in getattr(REGISTRY, kind):
                continue
            recipe = parent | switches.of(known, parent)
            try:
                cost = bench.step(recipe) / bench.step(parent)
                found = runs(recipe)
            except (TrialError, ModelError, SpecError) as error:
                print(f"{kind:6} {known.name:32} refused: {error}", flush=True)
                continue
            gains = [a.value - b.value for a, b in zip(zero, found, strict=True)]
            told = " ".join(f"{gain:+.4f}" for gain in gains)
            print(
                f"{kind:6} {known.name:32} {mean(gains):+.4f} ({told}) step {cost:.2f} "
                f"{_told(found)}",
                flush=True,
            )


def _told(found: list[TrialResult]) -> str:
    moved = f"up {found[0].sent / 1e3:.0f} down {found[0].fetched / 1e3:.0f} kB"
    parts = [f"{mean(r.value for r in found):.4f}", moved if found[0].sent else ""]
    return " ".join(filter(None, [*parts, *{result.reason for result in found}]))


if __name__ == "__main__":
    main()
