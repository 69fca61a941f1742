"""`python -m bench.wan [nats links moves crowd]` (root): what the transport does between hosts with
emulated links. Writes bench/results/wan.json and prints what it finds; see docs/wan.md.

nats: two peers behind NATs, how they reach each other; a run with them and a reachable one.
links: large bodies over TCP and over iroh, with loss.
moves: a peer changes its address in the middle of a run.
crowd: 16 peers with simulated computers over links of 10 up, 50 down, 80 ms (not played unless named).
"""

import argparse
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from bench.wan import crowd, links, runs
from bench.wan.lab import Host, unavailable

RESULTS = Path(__file__).parent.parent / "results" / "wan.json"
NATS = [("preserving", "preserving"), ("preserving", "symmetric"), ("symmetric", "symmetric")]
HOME = {"up": 10, "down": 50, "delay": 20}  # of each host: the round trip is four delays
LOSS = (0.0, 0.1, 0.5)


def behind(kinds: tuple[str, str]) -> dict[str, Any]:
    behind = [Host(f"p{n}", nat=kind) for n, kind in enumerate(kinds)]
    hosts = [Host("hub"), *behind, Host("open")]
    return links.through_nats(kinds) | {"run": runs.train(hosts, 3, 8, runs.DENSE)}


SCENES: dict[str, dict[str, Any]] = {
    "nats": {f"{a} and {b}": lambda k=(a, b): behind(k) for a, b in NATS},
    "links": {
        f"{up}/{down} Mbit/s, 80 ms, {loss} % loss": lambda x=loss, u=up, d=down: links.under_loss(
            x, up=u, down=d, delay=20
        )
        for up, down in ((100, 100), (10, 50))
        for loss in LOSS
    },
    "moves": {"10/50 Mbit/s, 80 ms": lambda: runs.moved(**HOME)},
}


def gathering(given: argparse.Namespace) -> dict[str, Any]:
    more = "" if given.overlap is None else f"overlap = {given.overlap}"
    name = f"{given.peers} peers, {given.model}, {more or 'no overlap'}"
    of = (given.peers, given.model, given.tokenizer, LOSS[1:], given.rounds, given.steps)
    return {
        name: lambda: (
            crowd.crowd(*of, given.step_seconds, more)
            | {"reference": crowd.reference(crowd.specification(*of, more))}
        )
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.wan", description=__doc__)
    parser.add_argument("scenes", nargs="*", default=list(SCENES), help=", ".join(SCENES))
    sizes = parser.add_argument_group("of the scene crowd")
    sizes.add_argument("--peers", type=int, default=16)
    sizes.add_argument("--model", default="llama-15m")
    sizes.add_argument("--tokenizer", default="bpe:2048", help="with it llama-15m has 15.7 M")
    sizes.add_argument("--rounds", type=int, default=1, help="for each rate of loss")
    sizes.add_argument("--steps", type=int, default=4, help="of a round")
    sizes.add_argument("--step-seconds", type=float, default=60, help="that a step lasts")
    sizes.add_argument("--overlap", type=float, help="rounds.overlap of the specification")
    given = parser.parse_args()
    scenes = SCENES | {"crowd": gathering(given)}
    if unknown := set(given.scenes) - scenes.keys():
        parser.error(f"no such scene: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # hosts are taken down again
    if reason := unavailable(nat=True):
        raise SystemExit(f"skipped: {reason}")
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for scene in given.scenes:
        found = record[scene] = record.get("crowd", {}) if scene == "crowd" else {}
        for name, play in scenes[scene].items():
            began = time.monotonic()
            found[name] = play()
            took = time.monotonic() - began
            print(f"{scene}: {name} ({took:.0f} s): {json.dumps(found[name])}", flush=True)
            record["machine"] = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}"
            RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
