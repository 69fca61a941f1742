"""A run of peers in one process whose rounds may each have other steps and another wire.

Training, codec, error feedback, merge and outer step are the product's; only who does what in which round is
said here, so that schedules can be tried that the product does not have."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bench.front import prose as texts
from duckweed.learn.learner import Part
from duckweed.learn.model import model as models
from duckweed.learn.optim import matrix_muon
from duckweed.learn.optim.optimizer import OptimizerState
from duckweed.merge.outer import outer_step
from duckweed.round import beginning, founding
from duckweed.run.spec import RunSpec, override
from duckweed.wire import feedback
from duckweed.wire.codec import codec_of

HELD_OUT = 131_072  # tokens; a small model is measured on half as many
AVERAGED = (4,)  # so many of the last states are averaged, beside the last one alone
HALF = 2  # bytes of a bf16 value
STEP = 8  # sequences of a step of data parallelism, from each peer


def ring_bytes(peers: int, parameters: int, sequences: int) -> float:
    """Bytes that a peer of bf16 data parallelism sends (and fetches) while it trains on that many sequences
    of its own: a ring all-reduce after each step of `STEP` of them, whatever steps the cell itself takes."""
    return sequences / STEP * 2 * (peers - 1) / peers * HALF * parameters


def quasi_hyperbolic(weight: float | None) -> None:
    """Let Muon make (1 - w) G + w (1 - beta) B orthogonal, with B its momentum (MT-DAO's form, arXiv
    2510.05361); None: its own direction, G + beta B."""

    def updates(self: Any, parameters: list[Any], momentum: float) -> list[Any]:
        for parameter in parameters:
            buffer = self.buffers[parameter]
            buffer.mul_(momentum).add_(parameter.grad)
            parameter.grad.mul_(1 - weight).add_(buffer, alpha=weight * (1 - momentum))
        kept, self.nesterov = self.buffers, False
        self.buffers = {p: p.grad.clone() for p in parameters}
        for parameter in parameters:  # the plain update adds the gradient to 0 times this buffer
            self.buffers[parameter].zero_()
        try:
            return plain(self, parameters, 0.0)
        finally:
            self.buffers = kept

    plain = _PLAIN
    matrix_muon.MatrixMuon._updates = plain if weight is None else updates  # type: ignore[method-assign]


_PLAIN = matrix_muon.MatrixMuon._updates


def run(
    changes: dict[str, Any],
    lengths: Sequence[int],
    wires: Sequence[dict[str, Any]] | None = None,
    scale_power: float = 0.0,
    mix: float | None = None,
    prose: bool = False,
) -> dict[str, Any]:
    """Train; returns what came of it. changes: to the defaults; lengths: inner steps of each round; wires:
    changes to the wire, round by round; scale_power: common scales follow the length of a round with it; prose: on
    prose, not on code."""
    if prose:
        changes = changes | {"data.path": str(texts.text())}
    # The same on every machine: a CPU with AMX would compute in bf16.
    began, spec = time.process_time(), override(RunSpec(), {"inner.precision": "fp32"} | changes)
    total = sum(lengths)
    assert total == spec.total_steps, (total, spec.total_steps)
    ground = founding.prepare(spec, Path(), lambda text: None)
    learner = founding.learner(spec, ground, "cpu")
    first_model = founding.first_model(spec, ground)
    layout, weights = models.layout_of(first_model), models.read_weights(first_model)
    quasi_hyperbolic(mix)
    specs = [override(spec, more) for more in wires] if wires else [spec] * len(lengths)
    codecs = [codec_of(one.wire, layout) for one in specs]
    part = Part(0, 0, lengths[0])
    shared = codecs[0].first_shared(lambda: learner.train(weights, part).delta)
    peers, momentum = spec.rounds.peers, np.zeros_like(weights)
    residuals = [np.zeros_like(weights) for _ in range(peers)]
    carried: list[OptimizerState] = [{} for _ in range(peers)]
    done, up, down, losses, last = 0, [], [], [], []
    for number, steps in enumerate(lengths):
        codec, said, loss, blobs = codecs[number], [], [], []
        sum_ = codec.total(shared)
        for peer in range(peers):
            first = done * peers + peer * steps
            begin = learner.begin_round(carried[peer], momentum)
            own = beginning.weights(spec, layout, weights, residuals[peer])
            work = learner.train(own, Part(0, first, steps, done, spec.seed), begin, keep=True)
            if spec.inner.state == "kept":
                carried[peer] = work.optimizer
            wanted = feedback.carry(work.delta, residuals[peer], spec.wire.feedback)
            encoded = codec.encode(wanted, shared)
            residuals[peer] = feedback.keep(wanted, encoded.sent)
            sum_.add(codec.decode(encoded.blob, shared), 1)
            said.append(codec.announce(wanted))
            loss.append(work.loss)
            blobs.append(len(encoded.blob))
        weights, momentum = outer_step(spec.outer, weights, momentum, sum_.mean())
        following = lengths[min(number + 1, len(lengths) - 1)]
        shared = np.array(codec.next_shared(said, shared.tolist()), np.float32)
        shared *= np.float32((following / steps) ** scale_power)
        up.append(float(np.mean(blobs)))
        down.append(float(len(codec.update(sum_)) if codec.additive else (peers - 1) * up[-1]))
        losses.append(round(float(np.mean(loss)), 4))
        last = [*last, weights][-max(AVERAGED) :]
        done += steps

    held_out = HELD_OUT if spec.model.sequence >= 128 else HELD_OUT // 2

    def bits(x: np.ndarray) -> float:
        nats, tokens = learner.evaluate(x, held_out, batch=16)
        return round(nats / tokens / float(np.log(2)), 4)

    ring = ring_bytes(peers, layout.total, total * spec.inner.batch) if peers > 1 else 0.0
    return {
        "bits_per_byte": bits(weights),
        "averaged": {n: bits(np.mean(last[-n:], axis=0)) for n in AVERAGED if n <= len(last)},
        "rounds": len(lengths),
        "up": sum(up),
        "down": sum(down),
        "times_fewer_up": round(ring / sum(up), 1),
        "times_fewer_down": round(ring / max(1.0, sum(down)), 1),  # of one peer: nothing
        "bits_a_parameter": [round(8 * x / layout.total, 3) for x in up],
        "train_loss": losses,
        "parameters": layout.total,
        "tokens": total * peers * spec.tokens_per_step,
        "held_out_tokens": held_out,
        "precision": str(learner.dtype),  # type: ignore[attr-defined]
        "cpu_seconds": round(time.process_time() - began, 1),
        "specification": msgspec.to_builtins(spec),
        "lengths": list(lengths),
    }
