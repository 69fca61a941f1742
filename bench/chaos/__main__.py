"""`python -m bench.chaos` (root): half of the peers are killed in every ten rounds, the coordinator in
every five, between hosts of the laboratory; then the calm run with as many tokens.

`--mixed` adds processes that hang, partitions, links of 1 Mbit/s and a villain. `--replay LOG` lets the
storm of a log pass again. Every storm's log, `storm.jsonl`, and the words of all processes stay in
--keep FOLDER. Writes bench/results/chaos.json; see docs/chaos.md.

`--hostile N --peers M --minutes X` (no root): N of M peers of an open run are hostile, each attack in turn, with a
flood of strangers beside them; then the calm run of the others. With --keep the same command goes on where it was
interrupted.
"""

import argparse
import json
import math
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.chaos import storm
from bench.chaos.arena import Arena
from bench.chaos.storm import Blow
from bench.chaos.verdict import Verdict, judge
from bench.chaos.weather import Weather
from bench.wan.lab import Host, Lab, unavailable

RESULTS = Path(__file__).parent.parent / "results" / "chaos.json"
HOME = {"up": 10.0, "down": 50.0, "delay": 20.0, "loss": 0.05}
VILLAIN = "villain"


def hosts(peers: int) -> list[Host]:
    return [Host("hub", **HOME), *(Host(f"p{n}", **HOME) for n in range(peers))]


def play(
    place: Path, blows: list[Blow], *, peers: int, rounds: int, steps: int, seed: int
) -> tuple[Verdict, dict[str, str]]:
    """One run with a storm over it; what it was worth, and who ended badly by themselves."""
    place.mkdir(parents=True)
    guests = [Host(VILLAIN)] if any(b.kind == "villain" for b in blows) else []
    with Lab([*hosts(peers), *guests], seed) as lab:
        arena = Arena(lab, place, peers=peers, rounds=rounds, steps=steps, seed=seed)
        head = {"peers": peers, "rounds": rounds, "steps": steps, "seed": seed}
        arena.open()
        weather = Weather(arena, blows, head, lambda text: print(text, flush=True))
        weather.passes()
        return judge(arena), weather.fallen


def compare(place: Path, blows: list[Blow], **facts: int) -> dict[str, Any]:
    """The storm, and the calm run whose rounds make as many tokens."""
    stormy, fallen = play(place / "storm", blows, **facts)
    whole = stormy.tokens / stormy.contributions * facts["peers"]
    calm, _ = play(place / "calm", [], **facts | {"rounds": max(1, round(stormy.tokens / whole))})
    kinds = [b.kind if b.host != "hub" else f"{b.kind} coordinator" for b in blows]
    return {
        **facts,
        "blows": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "storm": asdict(stormy) | {"peers that ended by themselves": fallen},
        "calm": asdict(calm),
        "loss against calm": stormy.held_out / calm.held_out - 1,
    }


def keep(name: str, found: dict[str, Any]) -> None:
    """An entry of the results."""
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(record | {name: found}, indent=1) + "\n")


def besieged(given: argparse.Namespace) -> dict[str, Any]:
    """A storm of hostile peers; what there is so far is kept as it goes."""
    from bench.chaos import siege  # it loads PyTorch

    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}"
    with tempfile.TemporaryDirectory() as place:
        return siege.compare(
            given.keep or Path(place),
            lambda text: print(f"{time.strftime('%H:%M:%S')} {text}", flush=True),
            lambda found: keep("hostile", found | {"machine": machine}),
            peers=given.peers, hostile=given.hostile, minutes=given.minutes, rounds=given.rounds or 0,
            steps=given.steps or 40, seed=given.seed,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--peers", type=int, default=6)
    parser.add_argument("--rounds", type=int, help="30; of --hostile: what fills the minutes")
    parser.add_argument("--steps", type=int, help="inner steps of a round, 40")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mixed", action="store_true", help="other faults too, and a villain")
    parser.add_argument("--replay", type=Path, help="the log of a storm")
    parser.add_argument(
        "--keep", type=Path, help="folder for logs and runs; a new one, but with --hostile"
    )
    parser.add_argument("--hostile", type=int, default=0, help="how many of the peers are hostile")
    parser.add_argument("--minutes", type=float, default=60.0, help="of the storm of --hostile")
    given = parser.parse_args()
    if given.hostile:
        ended(besieged(given))
        return
    given.rounds, given.steps = given.rounds or 30, given.steps or 40
    if reason := unavailable():
        raise SystemExit(f"skipped: {reason}")
    facts = {name: getattr(given, name) for name in ("peers", "rounds", "steps", "seed")}
    names = [h.name for h in hosts(given.peers)]
    if given.replay:
        facts, blows = storm.read(given.replay)
    else:
        more: dict[str, Any] = {"others": given.rounds // 2, "villain": VILLAIN}
        blows = storm.draw(
            given.seed, names[0], names[1:], given.rounds, **(more if given.mixed else {})
        )
    with tempfile.TemporaryDirectory() as place:
        found = compare(given.keep or Path(place), blows, **facts)
    if not given.replay:
        machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}"
        keep("mixed" if given.mixed else "kills", found | {"machine": machine})
    ended(found)


def ended(found: dict[str, Any]) -> None:
    """Show what was found."""
    print(json.dumps(found, indent=1))
    if found["storm"]["faults"] or not math.isfinite(found["loss against calm"]):
        raise SystemExit("the run is not sound")


if __name__ == "__main__":
    main()
