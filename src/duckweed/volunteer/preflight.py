"""What taking part would ask of this machine: measured before anything is promised."""

import asyncio
import contextlib
import errno
import os
import shutil
import time
from pathlib import Path

import msgspec

from duckweed.learn.learner import Learner, Part
from duckweed.round.worker import disk_needed
from duckweed.run import units
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.task.rollouts import blob_limit
from duckweed.run.task.work import writes
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import Asks
from duckweed.volunteer.controls import Controls, ControlsError
from duckweed.volunteer.watch import used
from duckweed.wire.codec import codec_of

SMALL = 64 << 10  # bytes of the first measurement of a link; more only if it was quick
QUICK = 0.25  # seconds: beyond, a body was large enough to measure the link
WORK = 3.0  # seconds of training that are measured
STEPS = 6  # of training that are measured, at most; the first is not counted


class LinkSpeed(msgspec.Struct, frozen=True):
    """Of a short exchange with the coordinator; a fast link may be faster than that."""

    trip: float
    """Seconds of a round trip."""
    up: float
    """Bytes per second sent."""
    down: float
    """Bytes per second received."""

    def __str__(self) -> str:
        return (
            f"{units.show_time(self.trip)} away, {units.show_rate(8 * self.up)} up, "
            f"{units.show_rate(8 * self.down)} down"
        )


async def measure_link(client: Asks, secret: str) -> LinkSpeed:
    """Three small questions, then one body each way, then a larger one if that went quickly."""
    trips = [await _timed(client, m.Probe(0, secret), b"") for _ in range(3)]
    trip = min(trips)
    up = down = 0.0
    for size in (SMALL, m.PROBE_LIMIT):
        noise = os.urandom(size)
        there = await _timed(client, m.Probe(0, secret), noise)
        both = await _timed(client, m.Probe(size, secret), noise)  # as much comes back as was sent
        up, down = _rate(size, there, trip), _rate(size, both - there + trip, trip)
        if both > 2 * QUICK:
            break
    return LinkSpeed(trip, up, down)


def _rate(size: int, took: float, trip: float) -> float:
    """Bytes per second of a body, of which a round trip is only waiting. Where the body took no longer than
    that, nothing is known but that the link is fast: four bodies in a round trip are the most that is said."""
    return size / max(1e-6, took - trip, trip / 4)


async def _timed(client: Asks, question: m.Probe, body: bytes) -> float:
    began = time.perf_counter()
    await client.ask(question, body, body_limit=question.size)
    return time.perf_counter() - began


class _Measured(Exception):
    """The training that is measured has lasted long enough."""


def _whole_step(learner: Learner, spec: RunSpec, only_writes: bool) -> float:
    """The same of a step with all that is written for it, or of what is written alone."""
    began, work = time.perf_counter(), learner.write if only_writes else learner.train
    work(learner.weights(), Part(0, 0, 1))
    return spec.tokens_per_step / (time.perf_counter() - began)


async def measure_speed(learner: Learner, spec: RunSpec, only_writes: bool = False) -> float:
    """Tokens a second of inner steps on this device, over some seconds. Leaves no trace. only_writes: of a peer that
    trains nothing."""
    if writes(spec):
        return await asyncio.to_thread(_whole_step, learner, spec, only_writes)
    marks = [(0, time.perf_counter())]  # steps done, and when

    def stepped(steps: int, loss: float) -> None:
        marks.append((steps, time.perf_counter()))
        if marks[-1][1] - marks[0][1] >= WORK:
            raise _Measured

    def work() -> None:
        with contextlib.suppress(_Measured):
            learner.train(
                learner.weights(), Part(0, 0, min(STEPS, spec.total_steps)), report=stepped
            )

    await asyncio.to_thread(work)
    (first, began), (last, ended) = marks[1 if len(marks) > 2 else 0], marks[-1]
    return (last - first) * spec.tokens_per_step / (ended - began)


class Survey(msgspec.Struct, frozen=True):
    """What a peer on this machine will do in a round, and what that takes."""

    spec: RunSpec
    layout: Layout
    terms: m.RunInfo
    link: LinkSpeed
    speed: float
    """Tokens per second of inner steps."""
    memory: int
    """Bytes that training takes of the device at its peak, as predicted."""
    device: str
    threads: int
    processes: int = 1
    """That are this peer."""
    main: int = 0
    """Bytes that it takes of main memory, as predicted, where the states of a GPU are there."""
    answers: bool = False
    """Whether it only writes answers."""

    @property
    def up(self) -> int:
        """Bytes sent in a round; before the first, the most that a contribution can have. Of answers always the most."""
        if self.answers:
            return blob_limit(self.spec)
        return self.terms.up or codec_of(self.spec.wire, self.layout).blob_limit

    @property
    def down(self) -> int:
        """Bytes fetched in a round, likewise."""
        return self.terms.down or codec_of(self.spec.wire, self.layout).blob_limit

    @property
    def tokens(self) -> int:
        """Of a round, the longest."""
        return self.spec.schedule.most * self.spec.tokens_per_step

    @property
    def seconds(self) -> float:
        """Of one round on this machine, exchange included; no shorter than the run's last."""
        alone = self.tokens / self.speed
        return max(alone + self.up / self.link.up + self.down / self.link.down, self.terms.seconds)

    def sentence(self) -> str:
        """What will happen here and what it costs."""
        most = "" if self.terms.up and not self.answers else "at most "
        hourly = 3600 / self.seconds
        disk = disk_needed(self.spec.inner, self.layout)
        size = units.show_size
        threads = f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        several = self.processes > 1
        away = f"of the GPU, {size(self.main)} of main memory " if self.main else ""
        who = f"{self.processes} processes as one peer" if several else "This machine"
        device = f"{self.device.partition(':')[0]} each" if several else self.device
        model = f"{self.spec.model.source} ({units.show_count(self.layout.total)} parameters)"
        tokens = f"at about {self.speed:,.0f} tokens/s; a round of {self.tokens:,} tokens"
        if self.answers:
            answers = self.spec.schedule.most * self.spec.inner.batch
            doing = (
                f"write answers with {model}, from which others learn; {answers:,} of them take it "
            )
        else:
            doing = f"train {model} {tokens} takes it "
        return (
            f"{who} ({device}{threads if self.device == 'cpu' else ''}) will {doing}"
            f"about {units.show_time(self.seconds)}, sends {most}{size(self.up)} and fetches "
            f"{most}{size(self.down)}, so {most}{size(self.up * hourly)} up and "
            f"{size(self.down * hourly)} down in an hour; it takes about {size(self.memory)} of "
            f"memory {'in each process ' if several else ''}{away}and {size(disk)} of disk. The coordinator is {self.link}."
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
