"""`python -m bench.chaos.newcomer` (root): how long from `duckweed join` to the first contribution that
counts, in a run that is under way between hosts of the laboratory (10 Mbit/s up, 50 down, 80 ms).

Writes the entry "newcomer" of bench/results/chaos.json.
"""

import json
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.chaos.__main__ import HOME, keep
from bench.chaos.arena import Arena
from bench.wan.lab import Host, Lab, unavailable
from duckweed.run.events import RoundClosed

ROUNDS, STEPS, SEEN = 14, 300, 3
LATE = "late"


def play(place: Path) -> dict[str, Any]:
    """Seconds: until the program runs, until it fetches the state, until the round closed in which its
    work counted first; and how long a round lasts."""
    with Lab([Host(name, **HOME) for name in ("hub", "p0", "p1", LATE)]) as lab:
        arena = Arena(lab, place, peers=2, rounds=ROUNDS, steps=STEPS, seed=0)
        arena.open()
        arena.until_round(SEEN)
        began, clock = time.monotonic(), time.time()
        arena.begin(LATE)
        arena.hears(LATE, re.compile("calling the coordinator"))
        running = time.monotonic() - began
        state = arena.hears(LATE, re.compile(r"fetching the state .*\((.*?) MB\)"))
        fetching = time.monotonic() - began
        while not (counted := [x for x in arena.events(RoundClosed) if 2 in x.accepted]):
            if arena.processes[arena.hub].poll() is not None:
                raise RuntimeError("the run ended before the newcomer's work counted")
            time.sleep(0.1)
        rounds = [x.seconds for x in arena.events(RoundClosed)[1:]]
        return {
            "seconds until the program runs": round(running, 1),
            "until it fetches the state": round(fetching, 1),
            "until its first work counts": round(counted[0].time - clock, 1),
            "seconds a round (median)": round(statistics.median(rounds), 1),
            "MB of state": float(state.group(1)),
        }


def main() -> None:
    if reason := unavailable():
        raise SystemExit(f"skipped: {reason}")
    with tempfile.TemporaryDirectory() as place:
        found = play(Path(place))
    print(json.dumps(found, indent=1))
    keep("newcomer", found)


if __name__ == "__main__":
    main()
