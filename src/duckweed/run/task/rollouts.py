"""Rollouts: what a model wrote for a span of a block, and the reward of each answer. As a blob they lie beside
the contribution that was made from them, so that anybody can check the rewards and do the training again.

A blob is four bytes, three counts (problems, answers, tokens), and one frame of zstd with the arrays. How
large all of it can be follows from the specification, and is compared before anything is allocated.
"""

import struct
from typing import NamedTuple

import numpy as np
import zstandard
from numpy.typing import NDArray

from duckweed.run.checked import LOSS
from duckweed.run.spec import RunSpec
from duckweed.run.task.sections import Reinforce
from duckweed.run.task.written import Written

MAGIC = b"dwr1"
_COUNTS = struct.Struct("<4sIII")
LEVEL = 9  # of zstd: costs are noise, and identifiers are few
ENOUGH = 1e-6  # between rewards of an answer that are different
RIGHT = 0.999  # a reward from which an answer is right


class RolloutsError(ValueError):
    """No rollouts that a peer of the run can have written; the message says why."""


class Rollouts(NamedTuple):
    """The answers to Q problems, `task.samples` to each that has room for them: N answers of M tokens in all."""

    asked: NDArray[np.bool_]
    """[Q]: whether the question leaves room for an answer."""
    lengths: NDArray[np.int64]
    """[N]: tokens of each answer, with the one that ended it."""
    ids: NDArray[np.int64]
    """[M]"""
    nats: NDArray[np.float32]
    """[M]: minus the logarithm of the probability with which each was drawn."""
    rewards: NDArray[np.float32]
    """[N]: from 0 to 1."""

    def answers(self) -> list[NDArray[np.int64]]:
        """The tokens of each answer."""
        return np.split(self.ids, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []

    def __add__(self, other: "Rollouts") -> "Rollouts":  # type: ignore[override]
        """Those of the steps that follow, behind these."""
        parts = (self._asdict(), other._asdict())
        return Rollouts(**{name: np.concatenate([x[name] for x in parts]) for name in self._fields})


def split(rollouts: Rollouts, steps: int) -> list[Rollouts]:
    """Those of each of the `steps` inner steps that they are for."""
    asked = rollouts.asked.reshape(steps, -1)
    samples = len(rollouts.lengths) // max(1, int(asked.sum()))
    rows = np.cumsum(asked.sum(1) * samples)[:-1]
    lengths = np.split(rollouts.lengths, rows)
    tokens = np.cumsum([int(x.sum()) for x in lengths])[:-1]
    parts = zip(
        asked, lengths, np.split(rollouts.ids, tokens), np.split(rollouts.nats, tokens),
        np.split(rollouts.rewards, rows), strict=True,
    )  # fmt: skip
    return [Rollouts(*part) for part in parts]


def problems(spec: RunSpec, steps: int) -> int:
    """Problems of `steps` inner steps."""
    assert isinstance(spec.task, Reinforce)
    return steps * (spec.inner.batch // spec.task.samples)


def blob_limit(spec: RunSpec) -> int:
    """Most bytes of the rollouts of one contribution; 0: the task of the run writes nothing."""
    if not isinstance(spec.task, Reinforce):
        return 0
    asked = problems(spec, spec.block_steps)
    answers = asked * spec.task.samples
    raw = _raw_size(asked, answers, answers * spec.task.tokens)
    return _COUNTS.size + raw + (raw >> 7) + 1024  # zstd makes nothing larger than that


def encode(rollouts: Rollouts) -> bytes:
    counts = len(rollouts.asked), len(rollouts.lengths), len(rollouts.ids)
    parts = (
        rollouts.asked.astype("u1"), rollouts.lengths.astype("<u4"), rollouts.ids.astype("<u4"),
        rollouts.nats.astype("<f4"), rollouts.rewards.astype("<f4"),
    )  # fmt: skip
    raw = b"".join(part.tobytes() for part in parts)
    return _COUNTS.pack(MAGIC, *counts) + zstandard.compress(raw, LEVEL)


def decode(blob: bytes, spec: RunSpec, steps: int) -> Rollouts:
    """The inverse, for `steps` inner steps. Raises RolloutsError."""
    task = spec.task
    assert isinstance(task, Reinforce)
    if len(blob) < _COUNTS.size or blob[:4] != MAGIC:
        raise RolloutsError("the rollouts are not in a form that this version reads")
    _, asked, answers, tokens = _COUNTS.unpack_from(blob)
    if asked != problems(spec, steps):
        raise RolloutsError(f"rollouts for {asked} problems, not {problems(spec, steps)}")
    if answers > asked * task.samples or tokens > answers * task.tokens:
        raise RolloutsError(f"{answers} answers of {tokens} tokens are more than there can be")
    raw = _unpacked(blob[_COUNTS.size :], _raw_size(asked, answers, tokens))
    found, start = [], 0
    for kind, count in (
        ("u1", asked), ("<u4", answers), ("<u4", tokens), ("<f4", tokens), ("<f4", answers),
    ):  # fmt: skip
        found.append(np.frombuffer(raw, kind, count, start))
        start += found[-1].nbytes
    mask, lengths, ids, nats, rewards = found
    rollouts = Rollouts(
        mask.astype(bool), lengths.astype(np.int64), ids.astype(np.int64),
        nats.astype(np.float32), rewards.astype(np.float32),
    )  # fmt: skip
    _check(rollouts, task)
    return rollouts


def written(rollouts: Rollouts, samples: int, ends: list[bool], said: Written) -> Written:
    """What these rollouts add up to. ends: of each answer, whether a token ended it. said: by the peer, for
    what does not follow from them: entropy, and checks that failed on its machine."""
    grouped = rollouts.rewards.reshape(-1, samples)
    right = grouped >= RIGHT
    return Written(
        problems=len(grouped),
        answers=rollouts.rewards.size,
        tokens=int(rollouts.lengths.sum()),
        reward=float(rollouts.rewards.sum(dtype=np.float64)),
        right=int(right.sum()),
        solved=int(right.any(1).sum()),
        flat=int((np.ptp(grouped, axis=1) <= ENOUGH).sum()) if len(grouped) else 0,
        cut=len(ends) - sum(ends),
        long=int((~rollouts.asked).sum()),
        failed=min(said.failed, rollouts.rewards.size),
        entropy=said.entropy,
    )


def _raw_size(asked: int, answers: int, tokens: int) -> int:
    return asked + 8 * answers + 8 * tokens


def _unpacked(frame: bytes, size: int) -> bytes:
    try:
        if zstandard.get_frame_parameters(frame).content_size != size:
            raise RolloutsError("the rollouts are longer or shorter than they say")
        # What follows the frame would be no part of the rollouts, and still of their hash.
        return zstandard.ZstdDecompressor().decompress(
            frame, max_output_size=size, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise RolloutsError(f"the rollouts cannot be unpacked: {error}") from error


def _check(rollouts: Rollouts, task: Reinforce) -> None:
    """Raises RolloutsError."""
    lengths, rewards, nats = rollouts.lengths, rollouts.rewards, rollouts.nats
    if len(lengths) != rollouts.asked.sum() * task.samples:
        raise RolloutsError(
            f"{len(lengths)} answers, where each problem has {task.samples} or is left out"
        )
    if lengths.size and not (lengths.min() >= 1 and lengths.max() <= task.tokens):
        raise RolloutsError(f"an answer has 1 to {task.tokens} tokens")
    if lengths.sum() != len(rollouts.ids):
        raise RolloutsError("the lengths of the answers are not those of their tokens")
    if not ((rewards >= 0) & (rewards <= 1)).all():  # also where one is no number
        raise RolloutsError("a reward that is not from 0 to 1")
    if not ((nats >= 0) & (nats <= LOSS)).all():  # likewise
        raise RolloutsError("a cost of a token that no probability has")
