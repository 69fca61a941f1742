"""What came of a run: its rounds, joined from ledger and metrics, and the figures that sum them up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from duckweed.ledger.ledger import Ledger
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec

PURPOSES = ("contributions", "updates", "control")
PHASES = ("train", "evaluate", "compress", "send", "wait", "fetch", "apply")
DATA_PARALLEL = "2 (M - 1) / M x 2 bytes x P for each of M peers and each step, each way"


class Traffic(msgspec.Struct, frozen=True):
    """Bytes as the peers see them: `up` from all peers to the coordinator, `down` back to them.

    Counted where messages enter and leave the transport: framing included, the packets' own headers
    (QUIC, UDP, IP) not.
    """

    up: int = 0
    down: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.up + other.up, self.down + other.down)


class Round(msgspec.Struct, frozen=True):
    """A closed round. Ledger: tokens that counted, loss (their mean, nats per token; None where
    nothing counted), accepted peers, rejected peer -> reason. Metrics, None or empty where a crash
    swallowed the line: seconds, held_out (nats per token of the state that the round started from),
    timings (peer -> phase -> seconds), traffic (of all peers until the round closed)."""

    number: int
    tokens: int
    loss: float | None
    accepted: tuple[int, ...]
    rejected: dict[int, str]
    seconds: float | None = None
    held_out: float | None = None
    timings: dict[int, dict[str, float]] = {}
    traffic: Traffic | None = None


class History(msgspec.Struct, frozen=True):
    """All closed rounds of a run in order, and what surrounds them. final: nats per token after the
    last round and the number of held-out tokens it was measured on; state: hash of the last agreed
    state; head: hash of the last entry of the ledger."""

    rounds: tuple[Round, ...]
    peers: int
    traffic: dict[str, Traffic]
    final: tuple[float, int] | None
    simulated: bool
    state: str
    head: str


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


class _Line(msgspec.Struct, frozen=True):
    """What is read of a line of metrics.jsonl about a closed round."""

    round: int
    seconds: float
    held_out: float | None = None
    timings: dict[int, dict[str, float]] = {}


def bits_per_byte(nats_per_token: float, bytes_per_token: float) -> float:
    """Nats per token as bits per byte of text, so that tokenizers compare."""
    return nats_per_token / math.log(2) / bytes_per_token


def data_parallel_bytes(parameters: int, peers: int, steps: int) -> int:
    """Bytes that each way of all peers together would carry in data-parallel training.

    A ring all-reduce moves 2 (M - 1) / M times the size of the gradients out of each of M peers and
    as much into it (Patarasuk & Yuan, J. Parallel Distrib. Comput. 69(2), 2009), here bf16
    gradients (2 bytes) at every one of `steps` steps.
    """
    return 2 * max(0, peers - 1) * 2 * parameters * steps


def history(folder: RunFolder) -> History:
    """The rounds that the ledger closed, with what metrics.jsonl tells of them.

    A round that the metrics hold twice counts as it came last; one that is not in the ledger has
    not happened. Raises LedgerError, and ValueError where a line of the metrics is not one.
    """
    ledger = Ledger(folder.ledger)
    try:
        entries, head = list(ledger.entries()), ledger.head
    finally:
        ledger.close()
    closed = {entry.round: entry.body for entry in entries if entry.kind == "round"}
    states = [entry.body for entry in entries if entry.kind in ("genesis", "state")]
    lines: dict[int, tuple[_Line, Traffic]] = {}
    moved, final, simulated = dict.fromkeys(PURPOSES, Traffic()), None, False
    for record, moved in _metered(folder.records()):
        if record.get("event") == "round":
            line = _read(record, folder)
            lines[line.round] = line, sum(moved.values(), Traffic())
            simulated = simulated or "virtual_clock" in record
        elif record.get("event") == "final" and record.get("round", len(closed)) == len(closed):
            final = float(record["held_out"]), int(record.get("tokens", 0))
    return History(
        rounds=tuple(_join(n, closed[n], lines.get(n)) for n in sorted(closed)),
        peers=sum(entry.kind == "peer" for entry in entries),
        traffic=moved,
        final=final,
        simulated=simulated,
        state=str(states[-1].get("hash") or states[-1].get("state")) if states else "",
        head=head,
    )


def summarise(
    folder: RunFolder, spec: RunSpec, parameters: int, bytes_per_token: float, sample: str = ""
) -> Summary:
    """The figures of a run from its ledger and metrics. Raises as `history` does.

    parameters: of the model; bytes_per_token: of the held-out text; sample: text the model wrote.
    """
    told = history(folder)
    start, end = _measured(told)
    bits = [x if x is None else bits_per_byte(x, bytes_per_token) for x in (start, end)]
    steps = spec.inner.steps
    return Summary(
        folder=str(folder.path),
        rounds=len(told.rounds),
        planned=spec.rounds.count,
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
            data_parallel_bytes(parameters, len(r.accepted), steps) for r in told.rounds
        ),
        phases=mean_phases(t for r in told.rounds for t in r.timings.values()),
        utilisation=_by_peer(told.rounds),
        state=told.state,
        head=told.head,
        sample=readable(sample),
    )


def fewer(factor: float) -> str:
    """A saving as a person says it: "120 times fewer", "1.4 times fewer", "2.0 times more"."""
    much = factor if factor >= 1 else 1 / factor
    return f"{much:,.{0 if much >= 10 else 1}f} times {'fewer' if factor >= 1 else 'more'}"


def readable(text: str) -> str:
    """Text that a model wrote, without the control characters that would act on a terminal."""
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def mean_phases(timings: Iterable[dict[str, float]]) -> dict[str, float]:
    """Mean seconds by phase; empty if there are no timings."""
    each = list(timings)
    return {p: sum(t.get(p, 0.0) for t in each) / len(each) for p in PHASES} if each else {}


def elapsed(times: dict[str, float]) -> float:
    """Seconds that a round took a peer: `wall`; the sum of the phases, where that was not recorded."""
    return times.get("wall") or sum(times.get(phase, 0.0) for phase in PHASES)


def utilisation(times: dict[str, float]) -> float:
    """Share of a peer's time in which it computed with the model: (train + evaluate) / `elapsed`;
    0 where nothing was measured."""
    total = elapsed(times)
    return (times.get("train", 0.0) + times.get("evaluate", 0.0)) / total if total else 0.0


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


def _measured(told: History) -> tuple[float | None, float | None]:
    """Nats per token before the first round and after the last (or at the last measurement)."""
    curve = [r.held_out for r in told.rounds if r.held_out is not None]
    start = curve[0] if curve else None
    if told.final:
        return start, told.final[0]
    return start, curve[-1] if len(curve) > 1 else None


def _metered(
    records: Iterable[dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], dict[str, Traffic]]]:
    """Each record with the bytes moved until then over all sessions of the run.

    A coordinator counts from zero whenever it starts. In one session the contributions received grow
    by at least those of the round just closed; where they did not, a new session began.
    """
    before = last = dict.fromkeys(PURPOSES, Traffic())
    for record in records:
        counts = record.get("traffic")
        if counts is not None:
            now = {p: Traffic(*counts.get(p, (0, 0))) for p in PURPOSES}
            grown = now["contributions"].up - last["contributions"].up
            if grown < sum(record.get("contribution_bytes", ())):
                before = {p: before[p] + last[p] for p in PURPOSES}
            last = now
        yield record, {p: before[p] + last[p] for p in PURPOSES}


def _read(record: dict[str, Any], folder: RunFolder) -> _Line:
    try:
        return msgspec.convert(record, _Line, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{folder.metrics}: a line is not as duckweed writes it: {error}"
        ) from error


def _join(number: int, body: dict[str, Any], line: tuple[_Line, Traffic] | None) -> Round:
    accepted = tuple(body["closed"]["accepted"])
    said = [body["contributions"][str(peer)] for peer in accepted]
    told = Round(
        number=number,
        tokens=sum(one["tokens"] for one in said),
        loss=sum(one["loss"] for one in said) / len(said) if said else None,
        accepted=accepted,
        rejected={int(peer): reason for peer, reason in body["closed"]["rejected"].items()},
    )
    if line is None:
        return told
    facts, traffic = line
    return msgspec.structs.replace(
        told,
        seconds=facts.seconds,
        held_out=facts.held_out,
        timings=facts.timings,
        traffic=traffic,
    )


def _factor(more: float, less: float) -> float | None:
    return more / less if more and less else None
