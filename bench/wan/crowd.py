"""Many peers on links of homes, with simulated computers: how much of their time they compute.

Peers get the first state beforehand, so that the run begins at once, and begin their first blocks
APART seconds after one another, as computers would that share no cores; all links have the first
rate of loss, then from a later round on the second. The reference is the same specification by
`duckweed train --simulate`, which gives the bits of a run on loopback (tests/swarm/test_local.py)
without its processes.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.wan import runs
from bench.wan.lab import Host, Lab
from duckweed.ledger.entries import StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.round.run_log import utilisation
from duckweed.run.events import FinalLoss, RoundClosed
from duckweed.run.folder import RunFolder

SPEC = """[data]
path = "text.txt"
tokenizer = "{tokenizer}"
held_out = 0.01

[model]
source = "{model}"
sequence = 64

[inner]
optimizer = "adamw"
learning_rate = 0.001
warmup = 2
steps = {steps}
batch = 1

[rounds]
count = {rounds}
peers = {peers}
evaluate = 1000
evaluate_tokens = 2048
checkpoint = 1000
{more}
"""
LINK = {"up": 10, "down": 50, "delay": 20}  # of each host, the coordinator too: 80 ms round trip
APART = 2.0
TAKEN = re.compile(r'^{"memory".*}$', re.MULTILINE)  # see paced.py
PARAMETERS = re.compile(r"([\d,]+) parameters")


def crowd(
    peers: int,
    model: str,
    tokenizer: str,
    losses: Sequence[float],
    rounds: int,
    steps: int,
    step_seconds: float,
    more: str = "",
) -> dict[str, Any]:
    """A run of one round, then `rounds` rounds for each rate of loss (percent between two hosts, each
    way); the first is not measured, for it waits for start-up. more: further lines for [rounds]."""
    spec = specification(peers, model, tokenizer, losses, rounds, steps, more)
    hosts = [Host(name, loss=losses[0] / 2, **LINK) for name in ("hub", *_names(peers))]

    def paced(n: int) -> list[str]:
        return [sys.executable, "-m", "bench.wan.paced", str(step_seconds), str(n * APART)]

    print(
        f"{peers} peers, {model}, rounds of {steps} steps; computing is simulated: each step is a "
        f"real one of 64 tokens and lasts {step_seconds:g} s, of which the rest is slept",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as place, Lab(hosts) as lab:
        run = runs.Served(lab, Path(place), spec, paced, ready=True)
        for number, loss in enumerate(losses[1:], 1):
            run.until_round(1 + number * rounds)
            for host in lab.hosts:
                lab.change(host, loss=loss / 2)
        run.ends()
        found = _facts(run, losses, rounds, steps * step_seconds)
    return found | {"steps": steps, "step_seconds": step_seconds, "more": more}


def specification(
    peers: int,
    model: str,
    tokenizer: str,
    losses: Sequence[float],
    rounds: int,
    steps: int,
    more: str,
) -> str:
    return SPEC.format(
        model=model, tokenizer=tokenizer, steps=steps, rounds=1 + rounds * len(losses),
        peers=peers, more=more,
    )  # fmt: skip


def reference(spec: str) -> dict[str, Any]:
    """The same run in one process, without a network: its final loss and state."""
    words = ["train", "run.toml", "--simulate", "--name", "same", "--runs", "."]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        runs.write(place, spec)
        done = subprocess.run([*runs.DUCKWEED, *words], cwd=place, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the reference ended with code {done.returncode}: {done.stderr}")
        return _end(RunFolder(place / "same"))


def _names(peers: int) -> list[str]:
    return [f"p{n}" for n in range(peers)]


def _facts(run: runs.Served, losses: Sequence[float], rounds: int, block: float) -> dict[str, Any]:
    closed = run.events(RoundClosed)
    total = PARAMETERS.search(run.said(run.hub))
    found: dict[str, Any] = {
        "peers": len(run.guests),
        "parameters": int(total[1].replace(",", "")) if total else None,
        "accepted": [len(x.accepted) for x in closed],
        "taken": _taken(run),
        "by loss": {},
    } | _end(run.folder)
    for number, loss in enumerate(losses):
        some = closed[1 + number * rounds : 1 + (number + 1) * rounds]
        found["by loss"][f"{loss} %"] = {
            "utilisation": _utilisations(some),
            "seconds_per_round": round(statistics.median(x.seconds for x in some), 1),
            "seconds_of_computing": block,
            "slowest_computing": _most(some, "train"),
            "seconds": {
                p: _middle(some, p) for p in ("compress", "send", "wait", "fetch", "apply")
            },
            "contribution_bytes": some[-1].contribution_bytes[0],
            "update_bytes": some[-1].update_bytes,
        }
    return found


def _taken(run: runs.Served) -> dict[str, float]:
    """Most memory of a peer, in MB, and processor seconds of all peers, from start to end."""
    each = [json.loads(TAKEN.findall(run.said(name))[-1]) for name in run.guests]
    return {
        "memory_of_a_peer_mb": round(max(x["memory"] for x in each) / 1e6),
        "processor_of_all_peers": round(sum(x["processor"] for x in each)),
    }


def _times(rounds: list[RoundClosed]) -> list[dict[str, float]]:
    return [times for one in rounds for times in one.timings.values()]


def _middle(rounds: list[RoundClosed], phase: str) -> float:
    return round(statistics.median(x[phase] for x in _times(rounds)), 2)


def _most(rounds: list[RoundClosed], phase: str) -> float:
    return round(max(x[phase] for x in _times(rounds)), 2)


def _utilisations(rounds: list[RoundClosed]) -> dict[str, float]:
    """Mean over all peers and rounds, and that of the worst peer."""
    by_peer: dict[int, list[dict[str, float]]] = {}
    for one in rounds:
        for peer, times in one.timings.items():
            by_peer.setdefault(peer, []).append(times)
    each = [utilisation(_sum(times)) for times in by_peer.values()]
    return {"mean": round(statistics.mean(each), 4), "worst": round(min(each), 4)}


def _sum(times: list[dict[str, float]]) -> dict[str, float]:
    return {phase: sum(x[phase] for x in times) for phase in times[0]}


def _end(folder: RunFolder) -> dict[str, Any]:
    """Held-out loss in nats per token after the last round, and the hash of the state before it: all
    peers have agreed on that one."""
    *_, final = folder.records(FinalLoss)
    ledger = Ledger(folder.ledger)
    agreed = {entry.round: entry.body.hash for entry in ledger.entries(StateEntry)}
    ledger.close()
    return {"held_out": final.held_out, "state": agreed[max(agreed)], "after": max(agreed)}
