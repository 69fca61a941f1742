"""What became of honest and of hostile peers in a run, from its ledger and records, and from what the hostile ones have
noted; and whether memory was flat."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from bench.chaos.attacker import noted
from duckweed.ledger.entries import AuditEntry, PeerEntry, RoundEntry
from duckweed.ledger.ledger import Entry, Ledger
from duckweed.net.identity import load_or_create
from duckweed.run.events import ContributionRefused, PeerLeft, StateDiffers
from duckweed.run.folder import RunFolder

HONEST = "honest so far"  # what a hostile peer does until its work has counted
NUMBER = re.compile(r"\d[\d.]*")


def told(folder: RunFolder, homes: Sequence[Path], crew: Path) -> dict[str, Any]:
    """homes: folders of the honest peers. crew: what the hostile ones have noted; it may not be there."""
    with closing(Ledger(folder.ledger)) as ledger:
        index_of = {entry.body.key: entry.body.index for entry in ledger.entries(PeerEntry)}
        rounds = list(ledger.entries(RoundEntry))
        audits = list(ledger.entries(AuditEntry))
    keys = [load_or_create(RunFolder(home).peer(0) / "key").id for home in homes]
    honest = {index_of[key] for key in keys if key in index_of}
    did = {(line["peer"], line["round"]): line["attack"] or HONEST for line in noted(crew)}
    return {
        "honest": _honest(folder, honest, rounds, audits),
        "hostile": _hostile(folder, did, rounds, audits),
        "keys of hostile peers": len({peer for peer, _ in did}),
        "audits": dict(Counter(entry.body.outcome for entry in audits)),
    }


def _honest(
    folder: RunFolder, honest: set[int], rounds: list[Entry[RoundEntry]], audits: list[Entry[AuditEntry]]
) -> dict[str, Any]:  # fmt: skip
    """How many of their contributions counted, and why others did not."""
    handed = [p for entry in rounds for p in entry.body.contributions if p in honest]
    counted = [p for entry in rounds for p in entry.body.closed.accepted if p in honest]
    out = [
        (entry.round, p, why)
        for entry in rounds
        for p, why in entry.body.closed.rejected.items()
        if p in honest
    ]
    refused = [x.reason for x in folder.records(ContributionRefused) if x.peer in honest]
    left = [x.reason for x in folder.records(PeerLeft) if x.peer in honest]
    return {
        "rounds of each": len(rounds) * len(honest),
        "handed in": len(handed),
        "counted": len(counted),
        "left out": _kinds(why for _, _, why in out),
        "refused": _kinds(refused),
        "left": _kinds(left),
        "put out": sorted(p for entry in audits for p in entry.body.out if p in honest),
        "left out in rounds": sorted({number for number, _, _ in out}),
    }


def _hostile(
    folder: RunFolder, did: dict[tuple[int, int], str], rounds: list[Entry[RoundEntry]],
    audits: list[Entry[AuditEntry]],
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Attack -> how often it was tried by a peer in a round, what became of these, and who was put out."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    why: dict[str, list[str]] = defaultdict(list)
    closed = {entry.round: entry.body for entry in rounds}
    for (peer, number), attack in did.items():
        found[attack]["tried"] += 1
        if body := closed.get(number):
            found[attack]["handed in"] += peer in body.contributions
            found[attack]["counted"] += peer in body.closed.accepted
            if reason := body.closed.rejected.get(peer):
                found[attack]["left out"] += 1
                why[attack].append(reason)
    for entry in audits:
        for peer in entry.body.out:
            if attack := did.get((peer, entry.round)):
                found[attack]["put out by an audit"] += 1
    last = {peer: attack for (peer, _), attack in sorted(did.items())}
    for event in folder.records(ContributionRefused, StateDiffers):
        if event.peer in last:
            refused = isinstance(event, ContributionRefused)
            attack = _attack_of(event, did) or last[event.peer]
            found[attack]["refused" if refused else "sent away for its state"] += 1
            if refused:
                why[attack].append(event.reason)
    return {name: dict(count) | {"reasons": _kinds(why[name])} for name, count in found.items()}


def _attack_of(
    event: ContributionRefused | StateDiffers, did: dict[tuple[int, int], str]
) -> str | None:
    """Of a refusal the round is not known: it is what can only be refused."""
    if isinstance(event, StateDiffers):
        return "state"
    return "tokens" if "tokens" in event.reason else None


def _kinds(reasons: Any) -> dict[str, int]:
    """Reasons that differ in their numbers are one."""
    return dict(Counter(NUMBER.sub("N", reason) for reason in reasons).most_common(8))


def memory(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of coordinator and peer: MB at the end of the first quarter and of the run, the most, and MB an hour by least
    squares since the first quarter, in which pools and caches fill."""
    later = [x for x in samples if x["round"]][len(samples) // 4 :]
    found: dict[str, Any] = {
        "samples": len(samples),
        "most files": max(x["files"] for x in samples),
    }
    hours = np.array([x["time"] for x in later]) / 3600
    for who in ("coordinator", "peer") if len(later) > 2 else ():
        held = np.array([x[who] for x in later])
        slope = float(np.polyfit(hours - hours[0], held, 1)[0])
        found[who] = {
            "MB after a quarter": round(float(held[0]), 1),
            "MB at the end": round(float(held[-1]), 1),
            "most MB": round(float(held.max()), 1),
            "MB an hour": round(slope, 1),
        }
    return found | {"course": [[x["round"], x["coordinator"], x["peer"]] for x in samples]}
