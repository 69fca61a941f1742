"""Every known and planted change of the registry alone, against generation 0 at equal FLOPs.

    python -m bench.evolve_registry [--flops 3e11] [--seeds 1] [--rates 0.5,1,2,4]

First the learning rate of generation 0 is chosen from `--rates` times 0.004; then each change is
trained beside it on the same seeds. Printed: held-out bits per byte, the difference to generation 0
(positive: better), and FLOPs of a step over those of generation 0. Few seeds: a look, not a test.
"""

import argparse
import math
import tempfile
from pathlib import Path
from statistics import mean

import torch

from duckweed.evolve.cell import Cell, Recipe
from duckweed.evolve.generation import generation_zero
from duckweed.evolve.opening import plain_recipe
from duckweed.evolve.switches import REGISTRY
from duckweed.evolve.trial import TrialError, configuration, plan
from duckweed.learn import dataset as datasets
from duckweed.learn import model as models
from duckweed.learn.architecture import ModelError
from duckweed.learn.trainer import Diverged, Trainer
from duckweed.run.sections import DataSpec
from duckweed.swarm.genesis import cache_folder
from duckweed.swarm.harvest import bytes_per_token

HELD_OUT = 65536  # tokens
SPEC = generation_zero(data=DataSpec(held_out=0.08))


def run(dataset: datasets.Dataset, recipe: Recipe, seed: int, flops: float) -> float:
    """Held-out bits per byte of one run; inf where it diverged."""
    vocabulary = dataset.manifest.vocabulary
    spec, _ = plan(SPEC, Path(), vocabulary, Cell(recipe, seed, flops))
    config = configuration(spec, Path(), vocabulary, 1)
    model = models.build(config, "cpu", seed, spec.architecture.zero_projections)
    trainer = Trainer(model, spec.inner, spec.total_steps, "cpu")
    inner, length = spec.inner, spec.model.sequence
    batches = (
        datasets.batch(dataset, seed, 0, step, inner.steps, inner.batch, length)
        for step in range(inner.steps)
    )
    try:
        trainer.train(models.read_weights(model), batches, 0, seed=seed)
    except Diverged:
        return math.inf
    nats, tokens = trainer.evaluate(None, datasets.held_out_batches(dataset, length, HELD_OUT, 16))
    return nats / tokens / math.log(2) / bytes_per_token(dataset)


def step_cost(dataset: datasets.Dataset, recipe: Recipe, flops: float) -> float:
    spec, cost = plan(SPEC, Path(), dataset.manifest.vocabulary, Cell(recipe, 0, flops))
    return cost.step(spec.inner.batch * spec.model.sequence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flops", type=float, default=3e11)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rates", default="0.5,1,2,4")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        dataset = datasets.prepare(SPEC.data, Path(place), cache_folder())
    plain = plain_recipe(SPEC, REGISTRY)

    def losses(recipe: Recipe) -> list[float]:
        return [run(dataset, recipe, 100 + seed, options.flops) for seed in range(options.seeds)]

    key = "inner.learning_rate"
    tuned = [plain | {key: SPEC.inner.learning_rate * float(f)} for f in options.rates.split(",")]
    scores = [losses(recipe) for recipe in tuned]
    for recipe, score in zip(tuned, scores, strict=True):
        print(f"generation 0, rate {recipe[key]:<8g} {mean(score):.4f}", flush=True)
    zero = min(scores, key=mean)
    parent = tuned[scores.index(zero)]
    base = step_cost(dataset, parent, options.flops)
    for kind in ("known", "nulls", "harms"):
        for known in getattr(REGISTRY, kind):
            recipe = parent | REGISTRY.of(known, parent)
            try:
                cost = step_cost(dataset, recipe, options.flops) / base
                gains = [a - b for a, b in zip(zero, losses(recipe), strict=True)]
            except (TrialError, ModelError) as error:
                print(f"{kind:6} {known.name:32} refused: {error}", flush=True)
                continue
            told = " ".join(f"{gain:+.4f}" for gain in gains)
            print(
                f"{kind:6} {known.name:32} {mean(gains):+.4f} ({told}) step {cost:.2f}", flush=True
            )


if __name__ == "__main__":
    main()
