"""`python -m bench.chaos.absence` (root): the coordinator of a run is killed (-9) and away for an hour
(`--minutes`), between hosts of the laboratory; then it is started again by the same words.

Writes the entry "absence" of bench/results/chaos.json.
"""

import argparse
import json
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.chaos.__main__ import hosts, keep
from bench.chaos.arena import Arena
from bench.chaos.verdict import judge
from bench.wan.lab import Lab, unavailable
from duckweed.run.events import RoundClosed

PEERS, ROUNDS, STEPS, SEEN = 2, 8, 100, 3


def play(place: Path, minutes: float) -> dict[str, Any]:
    """Minutes away; seconds from the coordinator's start to the round that closes first, and how many
    of the peers' contributions it holds; what is wrong with the run, nothing if it is sound."""
    with Lab(hosts(PEERS)) as lab:
        arena = Arena(lab, place, peers=PEERS, rounds=ROUNDS, steps=STEPS, seed=0)
        arena.open()
        arena.until_round(SEEN)
        arena.signal(arena.hub, signal.SIGKILL)
        arena.processes[arena.hub].wait()
        before = arena.closed()
        time.sleep(60 * minutes)
        alive = sum(arena.processes[p].poll() is None for p in arena.peers)
        back = time.time()
        arena.begin(arena.hub)
        arena.until_round(ROUNDS)
        ended = [arena.processes[p].wait(arena.patience) for p in (*arena.peers, arena.hub)]
        first = next(x for x in arena.events(RoundClosed) if x.round >= before)
        verdict = judge(arena)
    faults = verdict.faults + [f"a process ended with code {code}" for code in ended if code]
    return {
        "minutes away": minutes,
        "peers still there": f"{alive} of {PEERS}",
        "seconds until a round closed again": round(first.time - back, 1),
        "contributions in it": f"{len(first.accepted)} of {PEERS}",
        "rounds in all": verdict.rounds,
        "faults": "; ".join(faults) or "none",
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos.absence", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    minutes = parser.parse_args().minutes
    if reason := unavailable():
        raise SystemExit(f"skipped: {reason}")
    with tempfile.TemporaryDirectory() as place:
        found = play(Path(place), minutes)
    print(json.dumps(found, indent=1))
    keep("absence", found)
    if found["faults"] != "none":
        raise SystemExit("the run is not sound")


if __name__ == "__main__":
    main()
