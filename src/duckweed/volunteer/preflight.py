"""What taking part would ask of this machine: measured before anything is promised."""

import asyncio
import errno
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from duckweed.learn.data.dataset import Dataset, batch
from duckweed.learn.memory import PROCESS
from duckweed.learn.model.model import read_weights
from duckweed.learn.trainer import Trainer
from duckweed.round.worker import disk_needed
from duckweed.run import units
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.swarm.protocol import messages as m
from duckweed.volunteer.controls import Controls, ControlsError
from duckweed.volunteer.watch import used
from duckweed.wire.codec import codec_of

SMALL = 64 << 10  # bytes of the first measurement of a link; more only if it was quick
QUICK = 0.25  # seconds
WORK = 3.0  # seconds of training that are measured
STEPS = 6  # at most; the first is not counted

Ask = Callable[[m.Message, bytes, int], Awaitable[tuple[m.Answer, bytes]]]
"""(question, body, most bytes of the answer's body) -> answer and its body."""


class LinkSpeed(msgspec.Struct, frozen=True):
    """Seconds of a round trip; bytes a second up and down, as a short exchange got them: a fast link
    may be faster than that."""

    trip: float
    up: float
    down: float

    def __str__(self) -> str:
        return (
            f"{units.show_time(self.trip)} away, {units.show_rate(8 * self.up)} up, "
            f"{units.show_rate(8 * self.down)} down"
        )


async def measure_link(ask: Ask, secret: str) -> LinkSpeed:
    """Three small questions, then one body each way, then a larger one if that went quickly."""
    trips = [await _timed(ask, m.Probe(0, secret), b"") for _ in range(3)]
    trip = min(trips)
    up = down = 0.0
    for size in (SMALL, m.PROBE_LIMIT):
        noise = os.urandom(size)
        there = await _timed(ask, m.Probe(0, secret), noise)
        back = await _timed(ask, m.Probe(size, secret), b"")
        up, down = size / max(1e-6, there - trip), size / max(1e-6, back - trip)
        if max(there, back) > QUICK:
            break
    return LinkSpeed(trip, up, down)


async def _timed(ask: Ask, question: m.Probe, body: bytes) -> float:
    began = time.perf_counter()
    await ask(question, body, question.size)
    return time.perf_counter() - began


async def measure_speed(trainer: Trainer, dataset: Dataset, spec: RunSpec) -> float:
    """Tokens a second of inner steps on this device, over some seconds. Leaves no trace."""
    marks: list[float] = []

    def work() -> None:
        inner, began = spec.inner, time.perf_counter()
        batches = (
            batch(dataset, spec.seed, 0, step, inner.steps, inner.batch, spec.model.sequence)
            for step in range(min(STEPS, inner.steps))
            if len(marks) < 2 or marks[-1] - began < WORK
        )
        marks.append(began)
        trainer.train(
            read_weights(trainer.model), batches, 0, lambda *_: marks.append(time.perf_counter())
        )

    await asyncio.to_thread(work)
    first = 1 if len(marks) > 2 else 0
    steps = len(marks) - 1 - first
    return steps * spec.inner.batch * spec.model.sequence / (marks[-1] - marks[first])


class Survey(msgspec.Struct, frozen=True):
    """What a peer on this machine will do in a round, and what that takes. memory, disk: bytes;
    speed: tokens a second."""

    device: str
    threads: int
    spec: RunSpec
    parameters: int
    terms: m.Terms
    most_up: int
    link: LinkSpeed
    speed: float
    memory: int
    disk: int

    @property
    def up(self) -> int:
        """Bytes sent in a round; before the first, the most that can be."""
        return self.terms.up or self.most_up

    @property
    def down(self) -> int:
        return self.terms.down or self.most_up

    @property
    def seconds(self) -> float:
        """Of one round on this machine, exchange included; no shorter than the run's last."""
        alone = self.spec.tokens_per_block / self.speed
        return max(alone + self.up / self.link.up + self.down / self.link.down, self.terms.seconds)

    def sentence(self) -> str:
        """What will happen here and what it costs."""
        most = "" if self.terms.up else "at most "
        hourly = 3600 / self.seconds
        size = units.show_size
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return (
            f"This machine ({self.device}{threads if self.device == 'cpu' else ''}) will train "
            f"{self.spec.model.source} ({units.show_count(self.parameters)} parameters) at about "
            f"{self.speed:,.0f} tokens/s; a round of {self.spec.tokens_per_block:,} tokens takes it "
            f"about {units.show_time(self.seconds)}, sends {most}{size(self.up)} and fetches "
            f"{most}{size(self.down)}, so {most}{size(self.up * hourly)} up and "
            f"{size(self.down * hourly)} down in an hour; it takes about {size(self.memory)} of "
            f"memory and {size(self.disk)} of disk. The coordinator is {self.link}."
        )


def check_disk(home: Path, spec: RunSpec, layout: Layout, controls: Controls) -> None:
    """Raises ControlsError if the volunteer allows too little, OSError if the disk has too little."""
    needed, limit = disk_needed(spec.inner, layout), controls.disk_bytes
    if limit is not None and needed > limit:
        raise ControlsError(
            f"this run needs about {units.show_size(needed)} of disk here, and --disk allows "
            f"{units.show_size(limit)}"
        )
    free = shutil.disk_usage(home).free
    if free + used(home) < needed:
        raise OSError(
            errno.ENOSPC,
            f"{units.show_size(free)} free, about {units.show_size(needed)} needed; make room, or "
            "choose another disk with --home",
            str(home),
        )


def survey(
    spec: RunSpec,
    layout: Layout,
    terms: m.Terms,
    link: LinkSpeed,
    speed: float,
    memory: int,
    device: str,
    threads: int,
) -> Survey:
    base = PROCESS if device == "cpu" else 0
    return Survey(
        device, threads, spec, layout.total, terms,
        codec_of(spec.wire, layout).blob_limit, link, speed,
        memory + base, disk_needed(spec.inner, layout),
    )  # fmt: skip
