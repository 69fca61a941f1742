"""bench/results/chaos.json as the tables of docs/chaos.md: `python -m bench.chaos.table` writes them."""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.parent
RESULTS, PAGE = HERE / "results" / "chaos.json", HERE.parent / "docs" / "chaos.md"
BEGIN, END = "<!-- tables -->", "<!-- end -->"


def storms(found: dict[str, Any]) -> list[str]:
    """One row for each storm."""
    lines = [
        "| storm | peers, rounds, steps | blows | contributions, of | tokens | seconds, calm | loss against "
        "calm | faults |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in ("kills", "mixed"):
        if one := found.get(name):
            storm, calm = one["storm"], one["calm"]
            blows = ", ".join(f"{count} {kind}" for kind, count in one["blows"].items())
            faults = [*storm["faults"], *storm["peers that ended by themselves"].values()]
            lines.append(
                f"| {name}, seed {one['seed']} | {one['peers']}, {one['rounds']}, {one['steps']} | {blows} "
                f"| {storm['contributions']} of {one['peers'] * one['rounds']} | {storm['tokens']:,} "
                f"| {storm['seconds']:.0f}, {calm['seconds']:.0f} | {one['loss against calm']:+.2%} "
                f"| {'; '.join(faults) or 'none'} |"
            )
    return lines


def newcomer(found: dict[str, Any]) -> list[str]:
    """What a newcomer's way takes."""
    return [
        "",
        "| from the command `duckweed join` to | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in found.get("newcomer", {}).items()),
    ]


def main() -> None:
    found = json.loads(RESULTS.read_text())
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2]
    tables = "\n".join([*storms(found), *newcomer(found)])
    PAGE.write_text(f"{head}{BEGIN}\n\n{tables}\n\n{END}{tail}")


if __name__ == "__main__":
    main()
