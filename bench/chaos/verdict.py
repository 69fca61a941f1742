"""What a run was worth: from its ledger and its records alone."""

from dataclasses import dataclass

from bench.chaos.arena import Arena
from duckweed.ledger.entries import RoundEntry, StateEntry
from duckweed.ledger.ledger import Entry, Ledger
from duckweed.net.identity import verify
from duckweed.round.export import latest_state
from duckweed.round.round_record import assignments
from duckweed.run import spec as specs
from duckweed.run.events import FinalLoss, RoundClosed
from duckweed.run.spec import RunSpec


@dataclass(frozen=True)
class Verdict:
    """held_out: nats per token of the last weights. seconds: from the first closed round to the last.
    faults: what should not be, in words; empty if the run is sound."""

    rounds: int
    contributions: int
    tokens: int
    held_out: float
    seconds: float
    faults: list[str]


def judge(arena: Arena) -> Verdict:
    """Chain and signatures; every round closed once; no step of any block counted twice; every state
    that peers agreed on, and the last one, is what anybody recomputes from the ledger and the blobs."""
    folder = arena.folder
    spec = specs.load(folder.spec)
    ledger = Ledger(folder.ledger)
    ledger.verify(verify)
    closed = list(ledger.entries(RoundEntry))
    agreed = list(ledger.entries(StateEntry))
    ledger.close()
    faults: list[str] = []
    if [entry.round for entry in closed] != list(range(spec.rounds.count)):
        faults.append(f"rounds in the ledger: {[entry.round for entry in closed]}")
    tokens, contributions, twice = _counted(closed, spec)
    if twice:
        faults.append(f"steps counted twice: {twice}")
    hashes: dict[int, set[str]] = {}
    for entry in agreed:
        hashes.setdefault(entry.round, set()).add(entry.body.hash)
    if several := sorted(number for number, found in hashes.items() if len(found) > 1):
        faults.append(f"two states of one round: {several}")
    if unknown := sorted(set(range(1, spec.rounds.count + 1)) - hashes.keys()):
        faults.append(f"rounds whose state was never agreed on: {unknown}")
    last = latest_state(folder, spec)
    if {last.hash()} != hashes.get(spec.rounds.count):
        faults.append("the last state is not the one that peers agreed on")
    final = arena.events(FinalLoss)
    records = arena.events(RoundClosed)
    return Verdict(
        rounds=len(closed),
        contributions=contributions,
        tokens=tokens,
        held_out=final[-1].held_out if final else float("nan"),
        seconds=records[-1].time - records[0].time,
        faults=faults,
    )


def _counted(
    closed: list[Entry[RoundEntry]], spec: RunSpec
) -> tuple[int, int, list[tuple[int, int]]]:
    """Tokens and contributions that counted, and (block, step) that counted more than once."""
    seen: set[tuple[int, int]] = set()
    twice: list[tuple[int, int]] = []
    contributions = 0
    for entry in closed:
        spans = assignments(entry.body, spec.inner.steps)
        for peer in entry.body.closed.accepted:
            contributions += 1
            span = spans[peer]
            for step in range(span.first, span.first + span.steps):
                if (span.block, step) in seen:
                    twice.append((span.block, step))
                seen.add((span.block, step))
    return len(seen) * spec.tokens_per_step, contributions, twice
