"""A run of peers that train paths of a larger model, or one dense model, in one process.

All peers are stacked (bench.parity). Learning rates, guide, outer step, order of the text and router are the
product's; contributions are exact means, without a wire. Who trains what, and what is merged over whom, is
said here, so that forms can be tried that the product does not have.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray
from torch.nn.functional import log_softmax

from bench.parity.stacked import Steps
from bench.paths import corpus as corpora
from bench.paths import routers, shapes
from bench.paths.corpus import LENGTH, PREFIX, Corpus
from bench.paths.stacks import Fast, Mixture
from duckweed.learn.data.dataset import order
from duckweed.learn.data.permutation import derive
from duckweed.learn.data.router import UNIT
from duckweed.learn.model import model as models
from duckweed.learn.optim.muon import guide
from duckweed.learn.optim.schedule import learning_rate
from duckweed.merge.outer import outer_step
from duckweed.round.founding import cache_folder
from duckweed.run.spec import RunSpec, override

QUICK, MIXED = 240, 300  # held-out windows of a point of a curve, and of the mixtures
AT_ONCE = 20  # windows that are evaluated together
MEASURED, POINTS = 8, 8  # a curve has a point after so many rounds, and at most so many points
ARRAYS = "weights", "merged", "first", "second", "counts", "taken"
TOLD = "done", "seconds", "lengths", "curve"
SAVED = 60.0  # seconds of processor time after which what is trained is saved
TOPS = {"top1": 1, "top2": 2}  # forms that are mixtures: experts of a token
TEMPERATURE = 4.0  # of the router's posterior in a mixture


@dataclass(frozen=True)
class Cell:
    """One run. form: "dense" (all peers train one model), "none" (separate paths), "trunk" (feed-forward
    parts by path, the rest in common), "top1" and "top2" (a mixture of `paths` experts, with as many values as so many
    separate paths). With one peer there is nothing to merge: its steps are those of data parallelism."""

    form: str
    rate: float  # inner.learning_rate
    rounds: int = 33
    paths: int = 8
    corpus: str = "domains"
    seed: int = 0
    start: float = 0.15  # share of the rounds that all train one model, before the paths branch
    moments: str = "kept"  # or "dropped" where paths branch
    factor: float = 1.0  # of the step of what has one contributor
    shape: str = "66k"
    peers: int = 8
    steps: int = 10  # inner steps of a round
    batch: int = 2  # windows of an inner step of a peer
    mix: bool = False  # whether mixtures of paths are measured at the end
    guide: float = 0.1  # inner.guide


def specification(cell: Cell) -> RunSpec:
    width, layers, heads, inner = shapes.dimensions(cell.shape)
    return override(
        RunSpec(),
        {
            "model.sequence": LENGTH, "architecture.width": width, "architecture.layers": layers,
            "architecture.heads": heads, "architecture.kv_heads": heads,
            "architecture.inner_width": inner, "architecture.tied": False,
            "inner.learning_rate": cell.rate, "inner.warmup": min(20, cell.rounds * cell.steps // 2),
            "inner.batch": cell.batch, "inner.steps": cell.steps, "inner.guide": cell.guide,
            "rounds.count": cell.rounds, "rounds.peers": cell.peers, "seed": cell.seed,
        },
    )  # fmt: skip


class Swarm:
    """A cell at work. weights, merged: f32[K, P], the weights of each path and its last merged step."""

    def __init__(self, cell: Cell) -> None:
        self.cell, self.spec = cell, specification(cell)
        self.corpus: Corpus = corpora.load(cell.corpus)
        config = models.configuration(
            self.spec.model.source, cache_folder(), 256, LENGTH, given=False,
            architecture=self.spec.architecture,
        )  # fmt: skip
        model = models.build(config, "cpu", cell.seed)
        self.layout, weights = models.layout_of(model), models.read_weights(model)
        self.active, top = self.layout.total, TOPS.get(cell.form)
        if top:
            whole, deviation = cell.paths * self.layout.total, config.initializer_range
            self.layout = shapes.mixture(self.layout, cell.paths, whole)
            self.active = shapes.active(self.layout, cell.paths, top)
            weights = shapes.first_weights(self.layout, deviation, cell.seed)

        def stack(copies: int) -> Fast:
            given = config, self.layout, copies, LENGTH
            return Mixture(*given, cell.paths, top) if top else Fast(*given)

        self.stack, self.reader = stack(cell.peers), stack(1)
        self.inner_steps = Steps(self.stack, self.spec)
        self.paths = cell.paths if cell.form in ("none", "trunk") else 1
        self.branch = round(cell.start * cell.rounds) if self.paths > 1 else cell.rounds
        self.router = routers.fitted(self.corpus, cell.corpus, self.paths, cell.seed)
        whole = np.arange(len(self.corpus.train))
        routed = self.router.paths(self.corpus.train)
        self.texts = [whole] + [np.flatnonzero(routed == path) for path in range(self.paths)]
        self.taken = np.zeros(1 + self.paths, int)  # blocks of each text, the whole one first
        self.weights = np.repeat(weights[None], self.paths, axis=0)
        self.merged = np.zeros_like(self.weights)
        slots = max(cell.peers, self.paths)  # a path that waits keeps its moments
        self.first = torch.zeros(slots, self.layout.total)
        self.second = torch.zeros(slots, self.layout.total)
        self.counts = np.zeros(slots, int)  # inner steps that the moments are of
        self.common = self._common()
        self.lengths: list[list[float]] = []
        self.curve: list[list[float]] = []
        self.done, self.seconds = 0, 0.0  # rounds, and their processor time

    def _common(self) -> NDArray[np.bool_]:
        """Of each value, whether all paths hold it in common, bool[P]."""
        common = np.zeros(self.layout.total, bool)
        for name, part in zip(self.layout.names, self.layout.slices(), strict=True):
            common[part] = self.cell.form == "trunk" and ".mlp." not in name
        return common

    def run(self) -> dict[str, Any]:
        """All rounds that are left. Returns the record."""
        cell, every = self.cell, max(MEASURED, self.cell.rounds // POINTS)
        self._resume()
        saved = time.process_time()
        began = saved - self.seconds
        while self.done < cell.rounds:
            number = self.done
            if number == self.branch and cell.moments == "dropped":
                self.first.zero_()
                self.second.zero_()
                self.counts[:] = 0
            self._round(number, number % every == every - 1)
            self.done += 1
            if self.done % every == 0 and self.done < cell.rounds:
                bits = self.bits(QUICK)
                self.curve.append([self.tokens(self.done), round(float(bits.mean()), 4)])
                print(f"  round {self.done}: {bits.mean():.4f}", flush=True)
            if time.process_time() - saved > SAVED or self.done == cell.rounds:
                saved = time.process_time()
                self.seconds = saved - began
                self._save()
        np.savez(self.kept(), weights=self.weights)
        bits = self.bits(len(self.corpus.held_out))
        domains = self.corpus.held_out_domain
        routed = np.bincount(self.router.paths(self.corpus.train), minlength=self.paths)
        common = int(self.common.sum()) if self.paths > 1 else self.layout.total
        return {
            "cell": asdict(cell),
            "bits_per_byte": round(float(bits.mean()), 4),
            "by_domain": {
                name: round(float(bits[domains == number].mean()), 4)
                for number, name in enumerate(self.corpus.names)
            },
            "windows": len(bits),
            "held": self.layout.total,
            "active": self.active,
            "total": common + self.paths * (self.layout.total - common),
            "common": common,
            "tokens": self.tokens(cell.rounds),
            "tokens_per_held": round(self.tokens(cell.rounds) / self.layout.total, 2),
            "curve": self.curve,
            "lengths": self.lengths,
            "loads": (routed / routed.sum()).round(4).tolist(),
            "mixed": self.mixed() if cell.mix and self.paths > 1 else {},
            "cpu_seconds": round(time.process_time() - began, 1),
        }

    def _save(self) -> None:
        """What the rounds that are left go on from."""
        part = self.kept("progress").with_suffix(".part.npz")
        told = {name: getattr(self, name) for name in TOLD}
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in ARRAYS}
        np.savez(part, told=np.array(json.dumps(told)), **arrays)
        part.replace(self.kept("progress"))

    def _resume(self) -> None:
        """Go on where an earlier process was stopped."""
        if not self.kept("progress").exists():
            return
        with np.load(self.kept("progress")) as found:
            for name in ARRAYS:
                np.copyto(np.asarray(getattr(self, name)), found[name])
            for name, value in json.loads(str(found["told"])).items():
                setattr(self, name, value)
        print(f"  going on after round {self.done}", flush=True)

    def kept(self, what: str = "weights") -> Path:
        """Where the weights are kept in the cache, so that more can be measured of them later."""
        name = blake3(repr(self.cell).encode()).hexdigest(8)
        return cache_folder() / "bench-paths" / f"{what}-{self.cell.form}-{name}.npz"

    def tokens(self, rounds: int) -> int:
        cell = self.cell
        return rounds * cell.peers * cell.steps * cell.batch * LENGTH

    def _round(self, number: int, measured: bool) -> None:
        """Peers of a path, or all before the branch, train from its weights; then each part is merged over
        those who hold it."""
        cell = self.cell
        together = number < self.branch
        slots = self._slots(number, together)
        held = np.zeros(cell.peers, int) if together else slots * self.paths // len(self.first)
        self._load(slots, held)
        losses = self._train(number, held, together)
        self.first[slots], self.second[slots] = self.inner_steps.first, self.inner_steps.second
        self.counts[slots] += cell.steps
        before = self.weights[held]
        made = before - self.stack.weights.detach().numpy()
        everyone = made.mean(axis=0)
        for path in [0] if together else sorted(set(held.tolist())):
            own = made[held == path]
            gradient = own.mean(axis=0)
            if len(own) == 1:
                gradient *= np.float32(cell.factor)
            if measured and path == held[0]:
                self._measure(number, own, everyone, made)
            self.weights[path], self.merged[path] = outer_step(
                self.spec.outer, self.weights[path], self.merged[path], gradient
            )
        if together:
            self.weights[:], self.merged[:] = self.weights[0], self.merged[0]
            if len(slots) < len(self.first):  # paths that wait begin like those that do not
                for one in (self.first, self.second):
                    one[cell.peers :] = one[: len(one) - cell.peers]
                self.counts[cell.peers :] = self.counts[0]
        elif self.common.any():
            after = before[0, self.common] - everyone[self.common]
            self.weights[:, self.common] = after
            self.merged[:, self.common] = everyone[self.common]
        if not np.isfinite(losses).all():
            raise FloatingPointError(f"round {number}: a loss is {losses}")

    def _slots(self, number: int, together: bool) -> NDArray[np.int64]:
        """Whose moments each peer takes up: its own, or, where paths take turns, those of its path."""
        turns = len(self.first) // self.cell.peers
        turn = 0 if together else (number - self.branch) % turns
        return np.arange(self.cell.peers) + turn * self.cell.peers

    def _load(self, slots: NDArray[np.int64], held: NDArray[np.int64]) -> None:
        self.stack.weights.detach().copy_(torch.from_numpy(self.weights[held]))
        self.inner_steps.first.copy_(self.first[slots])
        self.inner_steps.second.copy_(self.second[slots])
        self.inner_steps.count = int(self.counts[slots[0]])
        for copy, path in enumerate(held):
            momenta = self.inner_steps.momenta(copy)
            guide(momenta, self.merged[path], self.layout, self.spec.inner.guide)

    def _train(self, number: int, held: NDArray[np.int64], together: bool) -> NDArray[np.float64]:
        cell, texts = self.cell, [0 if together else 1 + int(path) for path in held]
        blocks = []
        for text in texts:
            blocks.append(int(self.taken[text]))
            self.taken[text] += 1
        total = np.zeros(cell.peers)
        for step in range(cell.steps):
            windows = [
                self._windows(text, block, step) for text, block in zip(texts, blocks, strict=True)
            ]
            loss = self.stack.loss(torch.from_numpy(np.stack(windows)))
            loss.sum().backward()
            overall = number * cell.steps + step
            self.inner_steps.step(learning_rate(self.spec.inner, overall, self.spec.total_steps))
            total += loss.detach().numpy()
        return total / cell.steps

    def _windows(self, text: int, block: int, step: int) -> NDArray[np.int64]:
        """int64[b, 257]: of a block of a text (0: all of it; 1 + k: what is routed to path k)."""
        cell, mine = self.cell, self.texts[text]
        if not len(mine):
            raise ValueError(f"path {text - 1} has no text")
        chosen = order(len(mine), derive(cell.seed, text), block, step, cell.steps, cell.batch)
        return self.corpus.train[mine[chosen]].astype(np.int64)

    def _measure(self, number: int, own: Any, everyone: Any, made: Any) -> None:
        """How long merged steps are, over those that they are made of: of what is held in common, and of
        what a path has by itself."""

        def share(merged: Any, steps: Any) -> float:
            lengths = np.linalg.norm(steps, axis=1).mean() if steps.size else 0.0
            return round(float(np.linalg.norm(merged) / lengths), 3) if lengths else 0.0

        alone = ~self.common
        self.lengths.append(
            [
                number + 1,
                share(everyone[self.common], made[:, self.common]),
                share(own[:, alone].mean(axis=0), own[:, alone]),
            ]
        )

    # --- held out

    @torch.no_grad()
    def _nats(self, path: int, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """f32[N, 256]: of each byte of windows [N, 257] under a path."""
        self.reader.weights.detach()[0].copy_(torch.from_numpy(self.weights[path]))
        found = []
        for first in range(0, len(windows), AT_ONCE):
            part = torch.from_numpy(windows[first : first + AT_ONCE].astype(np.int64))
            logits = self.reader.logits(part[None, :, :-1])[0]
            likely = log_softmax(logits, -1).gather(1, part[:, 1:].reshape(-1, 1))
            found.append(-likely.view(len(part), LENGTH).numpy())
        return np.concatenate(found)

    def bits(self, count: int) -> NDArray[np.float64]:
        """Bits per byte of each of the first `count` held-out windows, after the bytes that route it."""
        windows = self.corpus.held_out[:count]
        paths, found = self.router.paths(windows), np.zeros(len(windows))
        for path in range(self.paths):
            if (mine := np.flatnonzero(paths == path)).size:
                found[mine] = self._nats(path, windows[mine])[:, PREFIX - 1 :].mean(axis=1)
        return found / np.log(2)

    def mixed(self) -> dict[str, float]:
        """Bits per byte where the distributions of paths are mixed, on MIXED windows."""
        windows = self.corpus.held_out[:MIXED]
        nats = np.stack([self._nats(path, windows) for path in range(self.paths)], axis=1)
        prefix, rest = nats[:, :, : PREFIX - 1].sum(axis=2), nats[:, :, PREFIX - 1 :]
        router = self.router.scores(windows) / (UNIT * TEMPERATURE)
        best = router.argmax(axis=1)

        def bits(scores: NDArray[np.floating], keep: int, running: bool = False) -> float:
            scores = np.where(scores >= np.sort(scores, axis=1)[:, -keep, None], scores, -np.inf)
            weights = np.repeat(scores[:, :, None], rest.shape[2], axis=2)
            if running:  # the posterior after all bytes before
                weights[:, :, 1:] -= np.cumsum(rest, axis=2)[:, :, :-1]
            weights -= np.logaddexp.reduce(weights, axis=1, keepdims=True)
            return round(float(-np.logaddexp.reduce(weights - rest, axis=1).mean() / np.log(2)), 4)

        rows = np.arange(len(windows))
        return {
            "routed": round(float(rest[rows, best].mean() / np.log(2)), 4),
            "best two by router": bits(router, 2),
            "all by router": bits(router, self.paths),
            "path of least loss on the prefix": bits(-prefix, 1),
            "best two by router, running posterior": bits(router, 2, running=True),
            "all, running posterior": bits(-prefix, self.paths, running=True),
            "best path in hindsight": bits(-rest.sum(axis=2), 1),
            "mean over single paths": round(float(rest.mean() / np.log(2)), 4),
        }


def run(cell: Cell) -> dict[str, Any]:
    torch.set_num_threads(1)
    swarm = Swarm(cell)
    record = swarm.run()
    swarm.kept("progress").unlink(missing_ok=True)
    return record


def paired(cells: dict[str, Cell]) -> dict[str, Any]:
    """For trained cells whose weights are in the cache, the first of them the one that the others are
    compared with: bits per byte on all held-out windows and on the first MIXED, and the standard error of the
    difference over windows, as if windows were independent."""
    bits: dict[str, NDArray[np.float64]] = {}
    for name, cell in cells.items():
        swarm = Swarm(cell)
        with np.load(swarm.kept()) as arrays:
            swarm.weights = arrays["weights"]
        bits[name] = swarm.bits(len(swarm.corpus.held_out))
    first = next(iter(bits.values()))
    return {
        name: {
            "bits": round(float(one.mean()), 4),
            "first": round(float(one[:MIXED].mean()), 4),
            "percent": round(float(100 * (one.mean() / first.mean() - 1)), 2),
            "error": round(float(100 * (one - first).std() / len(one) ** 0.5 / first.mean()), 2),
            "better": round(float((one < first).mean()), 3),
        }
        for name, one in bits.items()
    }
