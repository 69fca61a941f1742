"""bench/results/wan.json as the tables of docs/wan.md: `python -m bench.wan.table` writes them again."""

import json
from pathlib import Path
from typing import Any

from bench import page

HERE = Path(__file__).parent.parent
RESULTS, PAGE = HERE / "results" / "wan.json", HERE.parent / "docs" / "wan.md"


def _run(name: str, x: dict[str, Any]) -> list[Any]:
    accepted = f"{sum(x['accepted'])} of {x['peers'] * len(x['accepted'])}"
    return [name, accepted, x["seconds_per_round"], x["seconds_of_exchange"]]


def _mega(count: float) -> str:
    return f"{count / 1e6:.1f}"


def nats(found: dict[str, Any]) -> str:
    """How two peers reach each other, and what a run moved between them."""
    return page.rows(
        ["NATs of two peers", "they reach each other", "seconds until then", "Mbit/s",
         "contributions counted", "MB between peers", "MB through the relay"],
        [
            [name, "directly" if x["direct"] else "through the relay",
             x["settled"] if x["direct"] else x["connected"], x["down"],
             _run(name, x["run"])[1], _mega(x["run"]["traffic"]["between peers"][1]),
             _mega(x["run"]["relayed"])]
            for name, x in found.items()
        ],
    )  # fmt: skip


def links(found: dict[str, Any]) -> str:
    """Mbit/s of one body up and down, by carrier."""
    return page.rows(
        ["link", "TCP up", "down", "iroh up", "down"],
        [
            [name, *(x[way][direction] for way in ("tcp", "iroh") for direction in ("up", "down"))]
            for name, x in found.items()
        ],
    )


def moves(found: dict[str, Any]) -> str:
    """Runs in which a peer moves, by link."""
    head = ["link", "contributions counted", "seconds a round", "of them exchange"]
    return page.rows(head, [_run(name, x) for name, x in found.items()])


def crowd(found: dict[str, Any]) -> str:
    """Utilisation of many peers with simulated computers, and what the network did to the result."""
    rows = []
    for name, x in found.items():
        same = "same state" if x["state"] == x["reference"]["state"] else "other state"
        off = 100 * (x["held_out"] / x["reference"]["held_out"] - 1)
        for loss, y in x["by loss"].items():
            phases = y["seconds"]
            used = y["utilisation"]
            rows.append(
                [name, loss, f"{100 * used['mean']:.1f} %", f"{100 * used['worst']:.1f} %",
                 y["seconds_of_computing"], y["seconds_per_round"],
                 *(phases[p] for p in ("compress", "send", "wait", "fetch", "apply")),
                 f"{off:+.2f} % ({same})"]
            )  # fmt: skip
    head = ["run", "loss", "utilisation", "of the worst peer", "s computing a round", "s a round",
            "compress", "send", "wait", "fetch", "apply", "final loss against one process"]  # fmt: skip
    return page.rows(head, rows)


def tables(record: dict[str, Any]) -> str:
    """All tables that there are results for."""
    kinds = (("nats", "NATs", nats), ("links", "TCP and iroh", links),
             ("moves", "A peer changes its address", moves),
             ("crowd", "Many peers", crowd))  # fmt: skip
    return "\n\n".join(
        f"## {title}\n\n{write(record[name])}" for name, title, write in kinds if record.get(name)
    )


def main() -> None:
    made = tables(json.loads(RESULTS.read_text()))
    page.fill(PAGE, {"tables": f"\n{made}\n"})


if __name__ == "__main__":
    main()
