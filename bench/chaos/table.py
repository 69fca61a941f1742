"""bench/results/chaos.json as the tables of docs/chaos.md: `python -m bench.chaos.table` writes them."""

import json
from pathlib import Path
from typing import Any

from bench import page

HERE = Path(__file__).parent.parent
RESULTS, PAGE = HERE / "results" / "chaos.json", HERE.parent / "docs" / "chaos.md"


def storms(found: dict[str, Any]) -> str:
    """One row for each storm."""
    head = ["storm", "peers, rounds, steps", "blows", "contributions, of", "tokens",
            "seconds, calm", "loss against calm", "faults"]  # fmt: skip
    return page.rows(head, [_storm(x, found[x]) for x in ("kills", "mixed") if x in found])


def _storm(name: str, one: dict[str, Any]) -> list[str]:
    storm, calm = one["storm"], one["calm"]
    faults = [*storm["faults"], *storm["peers that ended by themselves"].values()]
    return [
        f"{name}, seed {one['seed']}",
        f"{one['peers']}, {one['rounds']}, {one['steps']}",
        ", ".join(f"{count} {kind}" for kind, count in one["blows"].items()),
        f"{storm['contributions']} of {one['peers'] * one['rounds']}",
        f"{storm['tokens']:,}",
        f"{storm['seconds']:.0f}, {calm['seconds']:.0f}",
        f"{one['loss against calm']:+.2%}",
        "; ".join(faults) or "none",
    ]


def newcomer(found: dict[str, Any]) -> str:
    """What a newcomer's way takes."""
    return page.rows(["from the command `duckweed join` to", ""], list(found["newcomer"].items()))


def absence(found: dict[str, Any]) -> str:
    """The coordinator killed and away."""
    return page.rows(["the coordinator away", ""], list(found["absence"].items()))


def main() -> None:
    found = json.loads(RESULTS.read_text())
    made = "\n\n".join([storms(found), newcomer(found), absence(found)])
    page.fill(PAGE, {"tables": f"\n{made}\n"})


if __name__ == "__main__":
    main()
