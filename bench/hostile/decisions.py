"""`python -m bench.hostile decisions`: whom each rule leaves out, tried on the codes of an honest run.

Six honest peers train; in some rounds each attack by four more is put to each rule, and has no consequence.
That is cheap, and shows which rules are worth whole runs."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np

from bench.hostile.attacks import ATTACKS, Attack
from bench.hostile.rules import OTHERS
from bench.hostile.swarm import PEERS, Swarm, View, world
from bench.hostile.table import RESULTS
from duckweed.merge.filter import Compared, Filter, find_outliers
from duckweed.merge.gram import Gram

PLACE = RESULTS.with_name("hostile-decisions.json")
ROUNDS = (5, 15, 25, 35)
HOSTILE = 4
RULES: dict[str, Filter] = {"filtered": find_outliers, **OTHERS}


def measure(seed: int, uneven: bool) -> list[dict[str, Any]]:
    """Per rule and attack, the share of the hostile and of the honest that is left out."""
    run = Swarm(world(seed, uneven), PEERS - HOSTILE, 0, None, "mean")
    tried = {name: a for name, a in ATTACKS.items() if not getattr(a, "trains", "")}
    counts = {(rule, name): [0, 0] for rule in RULES for name in ["none", *tried]}

    def look(view: View) -> None:
        if view.round in ROUNDS:
            seen = msgspec.structs.replace(view, count=HOSTILE)
            for name, attack in {"none": nobody, **tried}.items():
                for rule, (bad, good) in _left_out(seen, attack).items():
                    counts[rule, name][0] += bad
                    counts[rule, name][1] += good

    run.watch = look
    run.run()
    return [
        {
            "rule": rule,
            "attack": name,
            "data": "uneven" if uneven else "identical",
            "seed": seed,
            "hostile_left_out": round(bad / (HOSTILE * len(ROUNDS)), 3),
            "honest_left_out": round(good / ((PEERS - HOSTILE) * len(ROUNDS)), 3),
        }
        for (rule, name), (bad, good) in counts.items()
    ]


def nobody(view: View) -> tuple[list[np.ndarray], list[list[float]]]:
    """No attack: the honest alone."""
    return [], []


def _left_out(view: View, attack: Attack) -> dict[str, tuple[int, int]]:
    """Rule -> how many of the hostile, and of the honest, it leaves out."""
    codes, _ = attack(view)
    layout, honest = view.codec.layout, len(view.honest)
    gram = Gram(layout, [f"{p:064x}" for p in range(honest + len(codes))])
    for one in [*view.honest, *codes]:
        gram.add(one)
    peers = list(range(len(gram.rows)))
    tables = list(gram.tables())
    found = {}
    for rule, filter_ in RULES.items():
        out = filter_(Compared(peers, [1] * len(peers), layout.names, gram.sizes, tables)).out
        found[rule] = sum(p >= honest for p in out), sum(p < honest for p in out)
    return found


def main() -> None:
    """Measure seed 0, identical and uneven data."""
    rows: list[dict[str, Any]] = []
    for uneven in (False, True):
        rows += measure(0, uneven)
        PLACE.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        print(text(rows))


def text(rows: list[dict[str, Any]]) -> str:
    """Left out of the hostile / of the honest, in per cent, with identical and with uneven data."""
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    lines = ["| attack | data | " + " | ".join(rules) + " |", "| --- " * (2 + len(rules)) + "|"]
    for attack in dict.fromkeys(row["attack"] for row in rows):
        for data in ("identical", "uneven"):
            found = {r["rule"]: r for r in rows if (r["attack"], r["data"]) == (attack, data)}
            if found:
                cells = [
                    f"{100 * found[x]['hostile_left_out']:.0f} / {100 * found[x]['honest_left_out']:.0f}"
                    for x in rules
                ]
                lines.append(f"| {attack} | {data} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
