"""Ten peers in one process: the product's wire, rounds, merge and outer step; some peers are hostile.

Two things differ from a run, and change no result: all peers' inner steps are stacked in one program
(bench.parity, which says how far it agrees with the product), and codes travel as they are, since their
entropy coding is without loss and takes most of the time. What honest peers hand in depends only on the
state and on which of their own contributions counted before, so that it is kept and used again wherever
that is the same: a rule that leaves out exactly the hostile peers costs no training beyond the honest run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy as shallow_copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from blake3 import blake3

from bench.parity.model import Stack
from bench.parity.stacked import Steps
from duckweed.learn.data import dataset as datasets
from duckweed.learn.data.dataset import Dataset
from duckweed.learn.model import model as models
from duckweed.learn.optim.muon import guide
from duckweed.learn.optim.schedule import learning_rate
from duckweed.ledger.entries import Closed, Standing
from duckweed.merge.announcement import Announcement
from duckweed.merge.round import blob_hash
from duckweed.merge.trust import Memory, recall
from duckweed.round import founding
from duckweed.round.engine import Engine, MemoryBlobs
from duckweed.run.registry import WIRES
from duckweed.run.spec import RunSpec, override
from duckweed.run.state import State, first
from duckweed.wire import feedback
from duckweed.wire.codec import codec_of, register_wire
from duckweed.wire.codecs.integer import Codes, Integer, IntegerCodec, quantise, steps
from duckweed.wire.codecs.sums import Sums, values
from duckweed.wire.frame import Reader, Writer
from duckweed.wire.total import Decoded, Total

PEERS = 10
SPEC: dict[str, Any] = {
    "data.path": "stdlib",
    "model.source": "llama-0.5m",
    "architecture.width": 64,
    "architecture.layers": 2,
    "architecture.inner_width": 176,
    "architecture.heads": 4,
    "architecture.kv_heads": 4,
    "model.sequence": 64,
    "inner.steps": 4,
    "inner.batch": 4,
    "rounds.count": 40,
    "rounds.peers": PEERS,
    "rounds.evaluate_tokens": 32768,
    "wire.kind": "plain-integer",
}
"""133,440 parameters; 40 rounds of ten peers with 4 steps of 256 tokens each."""


class PlainInteger(
    Integer, msgspec.Struct, frozen=True, tag_field="kind", tag="plain-integer", forbid_unknown_fields=True
):  # fmt: skip
    """The integer wire without entropy coding."""


class PlainIntegerCodec(IntegerCodec):
    """Codes and sums as they lie in memory."""

    section = PlainInteger
    header = 255

    def write(self, writer: Writer, x: np.ndarray, shared: np.ndarray | None) -> np.ndarray:
        codes = quantise(self.wire, x, self.layout, shared)
        writer.raw(codes)
        return values(codes, steps(self.wire, shared, self.layout), self.layout)

    def read(self, reader: Reader, shared: np.ndarray | None) -> Codes:
        codes = reader.array("i1", self.layout.total)
        return Codes(codes, steps(self.wire, shared, self.layout), self.layout)

    def max_bytes(self) -> int:
        return self.layout.total

    def blob(self, codes: np.ndarray) -> bytes:
        """A contribution of these codes, int8[P]."""
        writer = Writer(self.header, self._agreed())
        writer.raw(codes)
        return writer.blob()

    def codes(self, blob: bytes, shared: np.ndarray) -> np.ndarray:
        """The inverse of `blob`, int8[P]."""
        decoded: Decoded = self.decode(blob, shared)
        assert isinstance(decoded, Codes)
        return decoded.codes

    def update(self, total: Total) -> bytes:
        assert isinstance(total, Sums)
        head = msgspec.json.encode([total.weights, total.squares])
        return len(head).to_bytes(4, "little") + head + total.sums.astype("<i4").tobytes()

    def read_update(self, blob: bytes, shared: np.ndarray | None, contributors: int) -> Sums:
        end = 4 + int.from_bytes(blob[:4], "little")
        total = Sums(self.layout, steps(self.wire, shared, self.layout), self.wire.levels)
        total.weights, total.squares = msgspec.json.decode(blob[4:end])
        total.sums = np.frombuffer(blob[end:], "<i4").astype(np.int32)
        return total


class Carried(msgspec.Struct):
    """What a peer carries from a contribution that counted to the next."""

    residual: np.ndarray
    first: torch.Tensor
    second: torch.Tensor
    lineage: str = ""
    """Hash of the states from which its counted contributions were trained."""


class Made(msgspec.Struct):
    """What an honest peer hands in, and what it carries on if that counts."""

    codes: np.ndarray
    sizes: list[float]
    carried: Carried


class World(msgspec.Struct):
    """What all runs of one seed and kind of data share."""

    spec: RunSpec
    data: list[Dataset]
    """Of each peer."""
    own: bool
    """Whether each peer has data of its own (uneven), and not blocks of the same."""
    ground: Any
    memo: dict[tuple[int, str, str], Made] = {}


def world(seed: int, uneven: bool, changes: dict[str, Any] | None = None) -> World:
    """uneven: peer p trains on the p-th tenth of the text (files in the order of their paths) alone."""
    if "plain-integer" not in WIRES.names():
        register_wire(PlainIntegerCodec)
    spec = override(RunSpec(), SPEC | {"seed": seed} | (changes or {}))
    ground = founding.prepare(spec, Path.cwd(), lambda text: None)
    data = [ground.dataset] * PEERS
    if uneven:
        edges = np.linspace(0, len(ground.dataset.train), PEERS + 1).astype(int)
        data = [_part(ground.dataset, a, b) for a, b in pairwise(edges)]
    return World(spec, data, uneven, ground)


def _part(whole: Dataset, start: int, end: int) -> Dataset:
    part = shallow_copy(whole)
    object.__setattr__(part, "train", whole.train[start:end])
    return part


class View(msgspec.Struct):
    """All that hostile peers know of a round: they see everything before they hand in."""

    round: int
    state: State
    codec: PlainIntegerCodec
    honest: np.ndarray
    """Codes of the honest peers, int8[h, P]."""
    sizes: list[list[float]]
    """What honest peers announce, [h][T]."""
    count: int
    """How many hostile peers there are."""
    past: list[np.ndarray]
    """`honest` of the rounds before."""
    own: np.ndarray | None
    """What the hostile peers have trained themselves, where their attack trains, int8[f, P]."""
    memory: Memory
    """What is remembered of all peers (duckweed.merge.trust)."""
    left_out: list[set[int]]
    """Which hostile peers were left out in each round before, counted from 0."""
    rng: np.random.Generator


class Record(msgspec.Struct):
    """How a run went."""

    bits: float
    """Held-out bits per byte at the end."""
    losses: list[float]
    left_out: list[list[int]]
    """Peers that did not count, by round."""
    trained: int
    """Rounds in which honest peers had to be trained anew."""


class Swarm:
    """One run: `honest` peers, and `hostile` ones with an attack of their own (None: they are not there)."""

    def __init__(self, world: World, honest: int, hostile: int, attack: Any, rule: str) -> None:
        self.world, self.honest, self.hostile, self.attack = world, honest, hostile, attack
        self.spec = override(world.spec, {"merge.rule": rule})
        model = founding.first_model(self.spec, world.ground)
        self.layout = models.layout_of(model)
        codec = codec_of(self.spec.wire, self.layout)
        assert isinstance(codec, PlainIntegerCodec)
        self.codec = codec
        weights = models.read_weights(model)
        self.watch: Callable[[View], None] | None = None
        """Shown every round before the hostile peers hand in."""
        self.trains = str(getattr(attack, "trains", ""))
        self.copies = honest + (hostile if self.trains else 0)
        config = founding.configuration(self.spec, world.ground)
        self.stack = Stack(config, self.layout, self.copies, self.spec.model.sequence)
        self.steps = Steps(self.stack, self.spec)
        self.carried = [self._nothing() for _ in range(self.copies)]
        self.memory: dict[int, Standing] = {}
        self.state = first(self.layout, weights, self._first_scales(weights))

    def _nothing(self) -> Carried:
        empty = np.zeros(self.layout.total, np.float32)
        return Carried(empty, torch.zeros(self.layout.total), torch.zeros(self.layout.total))

    def _first_scales(self, weights: np.ndarray) -> np.ndarray:
        learner = founding.learner(self.spec, self.world.ground, "cpu")
        return self.codec.first_shared(lambda: founding.first_gradient(self.spec, learner, weights))

    def run(self) -> Record:
        """All rounds."""
        rng = np.random.default_rng([self.spec.seed, 7])
        past: list[np.ndarray] = []
        gone: list[set[int]] = []
        record = Record(math.nan, [], [], 0)
        for number in range(self.spec.rounds.count):
            made = self._made(number, record)
            honest = np.stack([m.codes for m in made[: self.honest]])
            codes, sizes = list(honest), [m.sizes for m in made[: self.honest]]
            view = View(
                number, self.state, self.codec, honest, sizes, self.hostile, past,
                np.stack([m.codes for m in made[self.honest :]]) if self.trains else None, self.memory, gone, rng,
            )  # fmt: skip
            if self.watch:
                self.watch(view)
            if self.attack:
                theirs, said = self.attack(view)
                codes, sizes = [*codes, *theirs], [*sizes, *said]
            closed = self._close(number, codes, sizes)
            handed = {p for p, one in enumerate(codes) if one is not None}
            out = sorted(handed - set(closed.accepted))
            record.left_out.append(out)
            gone.append({p - self.honest for p in out if p >= self.honest})
            past.append(honest)
            for peer, one in enumerate(made):
                if peer in closed.carrying():
                    self.carried[peer] = one.carried
            if not np.isfinite(self.state.weights).all():
                return record
        record.bits = self._evaluate()
        return record

    def _close(
        self, number: int, codes: list[np.ndarray | None], sizes: list[list[float]]
    ) -> Closed:
        blobs, handed = MemoryBlobs(), []
        for peer, (one, said) in enumerate(zip(codes, sizes, strict=True)):
            if one is None:  # it hands in nothing
                continue
            blob = self.codec.blob(np.ascontiguousarray(one, np.int8))
            digest = blob_hash(blob)
            blobs[digest] = blob
            tokens = self.spec.tokens_per_block
            if peer >= self.honest and self.trains == "short":
                tokens //= self.spec.inner.steps
            handed.append(
                Announcement(
                    number, peer, number * PEERS + peer, digest, len(blob), tokens,
                    self.spec.inner.steps, 1.0, said,
                )
            )  # fmt: skip
        engine = Engine(self.spec, self.layout, blobs)
        closed = engine.close([float(s) for s in self.state.shared], handed, self.memory)
        recall(self.memory, closed)
        self.state = engine.advance(self.state, closed)
        return closed

    def _made(self, number: int, record: Record) -> list[Made]:
        """What each peer that trains hands in."""
        memo, state = self.world.memo, self.state.hash()
        keys = [(p, state, c.lineage) for p, c in enumerate(self.carried)]
        if self.trains or any(key not in memo for key in keys):
            record.trained += 1
            made = self._train(number, state)
            if self.trains or self.attack is not None:
                return made
            memo.update(zip(keys, made, strict=True))
        return [memo[key] for key in keys]

    def _train(self, number: int, state: str) -> list[Made]:
        inner, stack, steps_ = self.spec.inner, self.stack, self.steps
        stack.weights.detach().copy_(torch.from_numpy(self.state.weights))
        for copy, carried in enumerate(self.carried):
            steps_.first[copy], steps_.second[copy] = carried.first, carried.second
            guide(steps_.momenta(copy), self.state.momentum, self.layout, inner.guide)
        steps_.count = number * inner.steps
        for step in range(inner.steps):
            stack.loss(self._batch(number, step)).sum().backward()
            rate = learning_rate(inner, number * inner.steps + step, self.spec.total_steps)
            steps_.step(rate)
            if step == 0 and self.trains == "short":  # the part of a block that a slow machine gets
                short = stack.weights.detach()[self.honest :].clone()
        if self.trains == "short":
            stack.weights.detach()[self.honest :] = short
        return [self._encoded(p, state) for p in range(self.copies)]

    def _encoded(self, peer: int, state: str) -> Made:
        carried = self.carried[peer]
        delta = self.state.weights - self.stack.weights.detach()[peer].numpy()
        wanted = feedback.carry(delta, carried.residual, self.spec.wire.feedback)
        codes = quantise(self.spec.wire, wanted, self.layout, self.state.shared)
        sent = values(codes, steps(self.spec.wire, self.state.shared, self.layout), self.layout)
        sizes = self.codec.announce(wanted)
        lineage = blake3((carried.lineage + state).encode()).hexdigest()
        residual = feedback.keep(wanted, sent)
        kept = Carried(
            residual, self.steps.first[peer].clone(), self.steps.second[peer].clone(), lineage
        )
        return Made(codes, sizes, kept)

    def _batch(self, number: int, step: int) -> torch.Tensor:
        spec, world = self.spec, self.world
        found = []
        for peer in range(self.copies):
            block = number if world.own else number * PEERS + peer
            windows = datasets.batch(
                world.data[peer], spec.seed, block, step, spec.inner.steps, spec.inner.batch,
                spec.model.sequence,
            )  # fmt: skip
            found.append(windows)
        tokens = torch.from_numpy(np.stack(found))
        if (
            self.trains == "flipped"
        ):  # the next byte is claimed to be another: training is honest, its text is not
            tokens[self.honest :, :, 1:] = 255 - tokens[self.honest :, :, 1:]
        return tokens

    def _evaluate(self) -> float:
        learner = founding.learner(self.spec, self.world.ground, "cpu")
        nats, tokens = learner.evaluate(self.state.weights, self.spec.rounds.evaluate_tokens)
        return nats / tokens / math.log(2)
