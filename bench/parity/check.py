"""Does the stacked run agree with duckweed's own simulation? Both train the same few rounds."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from bench.parity.cells import NESTEROV
from bench.parity.stacked import Run, orthogonalise
from duckweed.learn.optim import matrix_muon
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.round.founding import Ground
from duckweed.run import folder as folders
from duckweed.run.events import RoundClosed
from duckweed.run.spec import RunSpec, override

HERE = Path(__file__).parent
WIRES: dict[str, dict[str, Any]] = {
    "dense": {"wire": {"kind": "dense", "dtype": "fp32"}},
    "integer": {"wire": {"kind": "integer", "threshold": 2.0, "value": 2.4, "feedback": 0.9}},
    "dense, kept, guided": {
        "inner.state": "kept",
        "inner.guide": 0.3,
        "wire": {"kind": "dense", "dtype": "fp32"},
    },
    "integer, kept, guided": {"inner.state": "kept", "inner.guide": 0.3},
    "integer, kept, AdamW": {"inner.state": "kept", "inner.optimizer": "adamw"},
    "sparse": {
        "wire": {"kind": "sparse", "keep": 64},
        "merge.rule": "contributors",
        "outer.optimizer": "none",
    },
}


def compare(name: str, rounds: int = 3, steps: int = 4) -> dict[str, Any]:
    """Weights, loss and bytes of both after a few rounds from the same specification: with the cells'
    cheaper polynomials on both sides, and with the product as it is shipped."""
    changes = {
        "model.source": str(HERE / "config.json"),
        "inner.learning_rate": 0.005,
        "inner.steps": steps,
        "inner.batch": 1,
        "inner.warmup": 2,
        "inner.precision": "fp32",  # as the stacked run, also where the machine has bf16
        "inner.state": "fresh",
        "inner.guide": 0.0,
        **NESTEROV,
        "rounds.count": rounds,
        "rounds.evaluate": 100,
        "rounds.evaluate_tokens": 4096,
    }
    spec = override(override(RunSpec(), changes), WIRES[name])
    ground = founding.prepare(spec, HERE, lambda text: None)
    own = matrix_muon.orthogonalise
    matrix_muon.orthogonalise = lambda g, iterations: orthogonalise(g)  # for its first scales too
    try:
        run = Run(spec, ground, ddp=False)
    finally:
        matrix_muon.orthogonalise = own
    start = run.weights.copy()
    run.run(lambda text: None)
    moved = np.linalg.norm(run.weights - start)
    cheap = _simulated(spec, ground, orthogonalise)
    shipped = _simulated(spec, ground, None)

    def difference(weights: np.ndarray) -> float:
        return float(np.linalg.norm(weights - run.weights) / moved)

    return {
        "wire": name,
        "rounds": rounds,
        "steps": steps,
        "difference_of_weights_to_distance_moved": difference(cheap.weights),
        "the_same_with_the_product's_newton_schulz": difference(shipped.weights),
        "last_loss_stacked": round(float(run.losses[-1]), 6),
        "last_loss_simulation": round(cheap.loss, 6),
        "last_loss_simulation_with_the_product's_newton_schulz": round(shipped.loss, 6),
        "mean_up_bytes_simulation": cheap.traffic["contributions"][0] / rounds / 4,
        "up_bytes_stacked_first_round": run.measured[0]["up"],
        "mean_down_bytes_simulation": cheap.traffic["updates"][1] / rounds / 4,
        "down_bytes_stacked_first_round": run.measured[0]["down"],
    }


class Simulated(NamedTuple):
    """The end of a run of the product."""

    weights: np.ndarray
    loss: float  # of the last round, nats per token
    traffic: dict[str, list[int]]


def _simulated(
    spec: RunSpec, ground: Ground, polynomials: Callable[[Tensor], Tensor] | None
) -> Simulated:
    """The product's own simulation. polynomials: instead of its Newton-Schulz iterations."""
    place, own = Path(tempfile.mkdtemp()), matrix_muon.orthogonalise
    if polynomials is not None:
        matrix_muon.orthogonalise = lambda g, iterations: polynomials(g)
    try:
        folder = folders.create(place, "check")
        state = founding.found(spec, ground, folder, "cpu", 4, lambda text: None)
        run = Simulation(folder, spec, founding.layout(folder), ground, state, "cpu")
        weights = run.run().weights
        return Simulated(weights, [e.loss for e in folder.records(RoundClosed)][-1], run.traffic)
    finally:
        matrix_muon.orthogonalise = own
        shutil.rmtree(place)
