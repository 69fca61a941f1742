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


def hostile(found: dict[str, Any]) -> list[str]:
    """A run under hostile peers and a flood of strangers: what it was worth, and what became of each attack."""
    if "loss against calm" not in (one := found.get("hostile", {})):
        return []
    storm, calm = one["storm"], one["calm"]
    honest = storm["honest"]
    facts = [
        ["peers, of these hostile; rounds; inner steps", f"{one['peers']}, {one['hostile']}; {one['rounds']}; {one['steps']}"],
        ["minutes; seconds a round; of the calm run", f"{storm['seconds'] / 60:.0f}; {storm['seconds a round']}; {calm['seconds a round']}"],
        ["tokens that counted; of the calm run", f"{storm['tokens']:,}; {calm['tokens']:,}"],
        ["held-out loss against the calm run", f"{one['loss against calm']:+.2%}"],
        ["contributions of honest peers that counted, of those handed in", f"{honest['counted']:,} of {honest['handed in']:,}"],
        ["why others did not", _reasons(honest["left out"] | honest["refused"])],
        ["honest peers put out; that ended by themselves", f"{len(honest['put out'])}; {len(storm['peers that ended by themselves'])}"],
        ["keys that the hostile peers used up", storm["keys of hostile peers"]],
        ["audits", _reasons(storm["audits"])],
        *([f"memory of {who}, MB: after a quarter, at the end, most; an hour more", _memory(storm["memory"][who])]
          for who in ("coordinator", "peer") if who in storm["memory"]),
        ["connections of strangers; most files open", f"{storm['strangers'].get('opened', 0):,}; {storm['memory']['most files']}"],
        ["faults of the run", "; ".join(storm["faults"]) or "none"],
    ]  # fmt: skip
    head = [
        "attack",
        "tried",
        "counted",
        "left out",
        "put out by an audit",
        "refused",
        "sent away",
        "most often because",
    ]
    rows = [
        [name, *(x.get(key, 0) for key in ("tried", "counted", "left out", "put out by an audit", "refused",
         "sent away for its state")), next(iter(x["reasons"]), "")]
        for name, x in storm["hostile"].items()
    ]  # fmt: skip
    return [page.rows(["hostile peers and strangers", ""], facts), page.rows(head, rows)]


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in counts.items()) or "none"


def _memory(x: dict[str, float]) -> str:
    return f"{x['MB after a quarter']}, {x['MB at the end']}, {x['most MB']}; {x['MB an hour']:+}"


def newcomer(found: dict[str, Any]) -> str:
    """What a newcomer's way takes."""
    return page.rows(["from the command `duckweed join` to", ""], list(found["newcomer"].items()))


def absence(found: dict[str, Any]) -> str:
    """The coordinator killed and away."""
    return page.rows(["the coordinator away", ""], list(found["absence"].items()))


def main() -> None:
    found = json.loads(RESULTS.read_text())
    made = "\n\n".join([storms(found), *hostile(found), newcomer(found), absence(found)])
    page.fill(PAGE, {"tables": f"\n{made}\n"})


if __name__ == "__main__":
    main()
