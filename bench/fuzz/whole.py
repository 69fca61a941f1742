"""A run among strangers, one with a liar, and peers of an impostor, one after the other."""

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bench.fuzz.flood import flood
from bench.fuzz.impostor import mislead, peers_of
from bench.fuzz.liar import PACE, LiedTo, lie_to
from bench.fuzz.stranger import bombard
from bench.fuzz.target import Target, table
from duckweed.ledger.entries import B, PeerEntry, StateEntry
from duckweed.ledger.ledger import Entry, Ledger
from duckweed.process.local_run import LocalRun
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run.events import RoundClosed
from duckweed.run.folder import RunFolder, create
from duckweed.run.spec import RunSpec, override

THROWN = 10_000  # pieces of nonsense, and connections of a flood, at most: these go over real links
SHORT = {"rounds.count": 10, "inner.steps": 5}  # of the run that is lied to
LONGER = 2.0  # times as long as the lies take, a run that is lied to would last
CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False,
}  # fmt: skip


@contextmanager
def served(folder: RunFolder, spec: RunSpec) -> Iterator[tuple[Target, threading.Thread]]:
    """A run with its peers, watched in a thread."""
    with LocalRun(folder, spec, "cpu", 1, spec.rounds.peers) as run:
        serving = run.start()
        watching = threading.Thread(target=lambda: list(run.events()), daemon=True)
        watching.start()
        port = serving.bound[0].rpartition(":")[2]
        yield Target(folder, serving.id, [f"127.0.0.1:{port}"]), watching


def specification(base: Path, rounds: int, steps: int) -> RunSpec:
    (base / "config.json").write_text(json.dumps(CONFIG))
    words = [
        "pond",
        "water",
        "leaf",
        "root",
        "green",
        "small",
        "floats",
        "under",
        "the",
        "sun",
        "and",
        "grows",
    ]
    dice = random.Random(1)
    (base / "text.txt").write_text(" ".join(dice.choice(words) for _ in range(6000)))
    return override(
        RunSpec(),
        {
            "data.path": "text.txt", "model.source": "config.json", "model.sequence": 32,
            "inner.steps": steps, "inner.batch": 2, "inner.warmup": 2, "rounds.count": rounds,
            "rounds.peers": 2, "rounds.patience": 2.0, "rounds.evaluate": 4,
            "rounds.evaluate_tokens": 512, "rounds.checkpoint": 2,
        },
    )  # fmt: skip


def found(base: Path, name: str, spec: RunSpec):
    ground = founding.prepare(spec, base, lambda text: None)
    folder = create(base / "runs", name)
    return folder, ground, founding.found(spec, ground, folder, "cpu", 1, lambda text: None)


def entries(folder: RunFolder, kind: type[B]) -> list[Entry[B]]:
    ledger = Ledger(folder.ledger)
    found = list(ledger.entries(kind))
    ledger.close()
    return found


def states(folder: RunFolder) -> dict[int, str]:
    """round -> hash of the state that its peers agreed on."""
    return {e.round: e.body.hash for e in entries(folder, StateEntry)}


def lied_to(base: Path, spec: RunSpec, lies: int, dice: random.Random) -> dict[str, Any]:
    """A simulated run that lasts for longer than it takes to tell all lies; what came of it."""
    folder, ground, state = found(base, "lied-to", spec)
    steps = spec.rounds.count * spec.inner.steps
    return lie_to(
        LiedTo(
            folder, spec, founding.layout(folder), ground, state, "cpu", lies=lies, dice=dice,
            step_seconds=max(1.0, LONGER * lies * PACE / steps),
        )
    )  # fmt: skip


def fuzz(messages: int, seed: int, base: Path, rounds: int = 40, steps: int = 60) -> dict[str, Any]:
    """Fuzz a run in the folder `base`; what happened."""
    os.environ["XDG_CACHE_HOME"] = str(base / "cache")
    os.chdir(base)
    dice = random.Random(seed)
    spec = specification(base, rounds, steps)
    told: dict[str, Any] = {"seed": seed, "messages": messages}
    folder, *_ = found(base, "bombarded", spec)
    with served(folder, spec) as (target, watching):
        thrown = min(messages, THROWN)
        first = asyncio.run(bombard(target, thrown // 10, dice))  # pools and caches fill
        before, began = target.memory(), time.monotonic()
        ended = asyncio.run(bombard(target, thrown - thrown // 10, dice)) + first
        flooded = asyncio.run(flood(target, thrown, dice))
        told["seconds"] = time.monotonic() - began
        seen = asyncio.run(target.status())
        if seen.round >= seen.rounds:
            raise SystemExit("the run was over before the bombardment; give it more --rounds")
        told["memory"] = {"before": before, "after": target.memory()}
        told["counted by the coordinator"] = seen.refused
        told["round at the end of the bombardment"] = f"{seen.round} of {seen.rounds}"
        while watching.is_alive() and max(states(folder), default=0) <= seen.round:
            watching.join(1)  # what came of the bombardment is in the next state
    last = max(states(folder))
    founded, ground, state = found(base, "simulated", spec)
    layout = founding.layout(founded)
    with closing(Simulation(founded, spec, layout, ground, state, "cpu").events()) as happens:
        for event in happens:
            if isinstance(event, RoundClosed) and event.round == last:
                break
    told["flooded"] = dict(flooded)
    told["bombarded"] = table(ended)
    told["compared after rounds"] = last
    told["bit for bit the run without it"] = states(folder)[last] == states(founded)[last]
    told["members"] = len(entries(folder, PeerEntry))

    told["lied to"] = lied_to(base, override(spec, SHORT), messages, dice)
    peer_of = peers_of(founded, spec, ground, layout, base / "misled", dice)
    told["misled"] = table(asyncio.run(mislead(peer_of, thrown // 50, dice, spec)))
    return told
