"""The figures that sum up a run, and how they are said."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from duckweed.round.run_log import (
    PHASES,
    Round,
    RunLog,
    Traffic,
    data_parallel_bytes,
    elapsed,
    mean_phases,
    run_log,
    utilisation,
)
from duckweed.run.events import UNSET, RoundClosed
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec
from duckweed.run.task.work import TEXT, kind_of, opening, writes
from duckweed.run.task.written import Written

LAST = 10  # rounds of which it is said what was written
DATA_PARALLEL = "2 (M - 1) / M x 2 bytes x P for each of M peers and each step, each way"


class Summary(msgspec.Struct, frozen=True):
    """The figures of a run. Losses in bits per byte of text, None where not measured; seconds: of all
    rounds, on the virtual clock of a simulated run; data_parallel: bytes that data-parallel training
    of the same tokens would have moved each way, all peers together (`data_parallel_bytes`); phases:
    mean seconds of one peer in one round; utilisation: peer -> share of its time that it computed."""

    folder: str
    rounds: int
    planned: int
    peers: int
    parameters: int
    tokens: int
    seconds: float
    simulated: bool
    bytes_per_token: float
    held_out_start: float | None
    held_out_end: float | None
    contributions: int
    rejected: int
    traffic: dict[str, Traffic]
    data_parallel: int
    phases: dict[str, float]
    utilisation: dict[int, float]
    state: str
    head: str
    sample: str
    tried: str = ""
    """The command by which the model is tried."""
    timed: bool = True
    """Whether times and bytes are known: they are the coordinator's, and a peer's own folder has none."""
    solves: bool = False
    """Whether problems are solved: losses are then the share of them that is not."""
    written: str = ""
    """What the models of the peers wrote in the last rounds, in words."""

    def unit(self, what: str) -> str:
        """In what losses are given: "bits per byte of unseen text"."""
        return f"of {what} problems not solved" if self.solves else f"bits per byte of {what} text"

    @property
    def total(self) -> Traffic:
        """Bytes of all purposes."""
        return sum(self.traffic.values(), Traffic())

    @property
    def up_per_peer(self) -> float:
        return self.total.up / max(1, self.peers)

    @property
    def down_per_peer(self) -> float:
        return self.total.down / max(1, self.peers)

    @property
    def saving_up(self) -> float | None:
        """How many times fewer bytes went up; None where there is nothing to compare."""
        return _factor(self.data_parallel, self.total.up)

    @property
    def saving_down(self) -> float | None:
        """How many times fewer bytes went down; None where there is nothing to compare."""
        return _factor(self.data_parallel, self.total.down)

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.seconds else None


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Nats per token as bits per byte of text, so that tokenizers compare."""
    return nats_per_token / math.log(2) / bytes_per_token


def summarise(
    folder: RunFolder, spec: RunSpec, parameters: int, bytes_per_token: float, sample: str = ""
) -> Summary:
    """The figures of a run from its ledger and metrics. Raises as `run_log` does.

    parameters: of the model; bytes_per_token: of the held-out text; sample: text the model wrote.
    """
    told = run_log(folder)
    start, end = _measured(told)
    bits = [x if x is None else bits_per_byte(x, bytes_per_token) for x in (start, end)]
    steps_of = spec.schedule.steps_of
    return Summary(
        folder=str(folder.path),
        rounds=len(told.rounds),
        planned=spec.schedule.rounds,
        peers=told.peers,
        parameters=parameters,
        tokens=sum(r.tokens for r in told.rounds),
        seconds=sum(r.seconds or 0.0 for r in told.rounds),
        simulated=told.simulated,
        bytes_per_token=bytes_per_token,
        held_out_start=bits[0],
        held_out_end=bits[1],
        contributions=sum(len(r.accepted) for r in told.rounds),
        rejected=sum(len(r.rejected) for r in told.rounds),
        traffic=told.traffic,
        data_parallel=sum(
            data_parallel_bytes(parameters, len(r.accepted), steps_of(r.number))
            for r in told.rounds
        ),
        phases=mean_phases(t for r in told.rounds for t in r.timings.values()),
        utilisation=_by_peer(told.rounds),
        state=told.state,
        head=told.head,
        sample=readable(sample),
        tried=tried(folder, spec),
        timed=any(r.seconds is not None for r in told.rounds) or not told.rounds,
        solves=writes(spec),
        written=_written(folder),
    )


def tried(folder: RunFolder, spec: RunSpec) -> str:
    """The command by which a finished run's model is tried, in the form that it was trained in."""
    if kind_of(spec) != TEXT:
        return f"duckweed chat {folder.path}"
    prompt = opening(spec)
    return f"duckweed generate {folder.path}" + (f" --prompt '{prompt}'" if prompt else "")


def _written(folder: RunFolder) -> str:
    rounds = list(folder.records(RoundClosed))
    told = [x.written for x in rounds if x.written is not UNSET][-LAST:]
    by_writers = [x.writers for x in rounds if x.writers is not UNSET]
    peers = {peer for one in by_writers for peer in one}
    tokens = sum(sum(one.values()) for one in by_writers)
    more = f"; {len(peers)} only wrote, {tokens:,} tokens in the whole run" if peers else ""
    return sum(told, Written()).words() + more if told else ""


def fewer(factor: float) -> str:
    """A saving as a person says it: "120 times fewer", "1.4 times fewer", "2.0 times more"."""
    much = factor if factor >= 1 else 1 / factor
    return f"{much:,.{0 if much >= 10 else 1}f} times {'fewer' if factor >= 1 else 'more'}"


def readable(text: str) -> str:
    """Text that a model wrote, without the control characters that would act on a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _by_peer(rounds: Iterable[Round]) -> dict[int, float]:
    """Peer -> utilisation over all rounds of which timings are known."""
    spent: dict[int, dict[str, float]] = {}
    for one in rounds:
        for peer, times in one.timings.items():
            sums = spent.setdefault(peer, dict.fromkeys((*PHASES, "wall"), 0.0))
            for phase in PHASES:
                sums[phase] += times.get(phase, 0.0)
            sums["wall"] += elapsed(times)
    return {peer: utilisation(spent[peer]) for peer in sorted(spent)}


def _measured(told: RunLog) -> tuple[float | None, float | None]:
    """Nats per token before the first round and after the last (or at the last measurement)."""
    curve = [r.held_out for r in told.rounds if r.held_out is not None]
    start = curve[0] if curve else None
    if told.final:
        return start, told.final[0]
    return start, curve[-1] if len(curve) > 1 else None


def _factor(more: float, less: float) -> float | None:
    return more / less if more and less else None
