"""The tables of docs/parity-cells.md from the records."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import page
from bench.parity.cells import BASE
from bench.parity.plan import CELLS
from duckweed.run.spec import RunSpec, override

DOCUMENT = Path(__file__).parents[2] / "docs" / "parity-cells.md"
Record = dict[str, Any]


def setting(record: Record, key: str) -> Any:
    """A value of a cell's specification, from its changes or the base."""
    return record["changes"].get(key, record["base"].get(key, BASE.get(key)))


def ring_bytes(peers: int, parameters: int) -> float:
    """Bytes that a bf16 ring all-reduce sends, and receives, per peer and step: 2 (M-1)/M values."""
    return 2 * (peers - 1) / peers * 2 * parameters


def exchanged_momenta(record: Record) -> bool:
    """Whether peers exchanged Muon's momenta too (`inner.state = "shared"` until November 2026;
    "shared": true in older records): such cells cannot be trained again with this version."""
    return bool(record.get("shared")) or setting(record, "inner.state") == "shared"


def specification(record: Record) -> RunSpec:
    """The specification of a cell, as far as this version knows its keys."""
    said = BASE | record["base"] | record["changes"]
    return override(RunSpec(), {k: v for k, v in said.items() if v != "shared"})


def uncompressed(recipes: dict[str, Record]) -> dict[str, str]:
    """Swarm recipe -> the first that differs from it by exchanging float32 alone; itself perhaps."""
    specs = {name: specification(x) for name, x in recipes.items() if x["kind"] == "swarm"}
    alike = {
        name: (exchanged_momenta(recipes[name]), spec.model, spec.inner, spec.outer, spec.rounds)
        for name, spec in specs.items()
    }
    dense = [name for name, spec in specs.items() if spec.wire.kind == "dense"]
    return {
        name: base
        for name in specs
        if (base := next((d for d in dense if alike[d] == alike[name]), None))
    }


def savings(record: Record) -> tuple[float, float]:
    """How many times fewer bytes up and down than bf16 ring all-reduce every step.

    The first blob is left out of the mean where there are others: its scale is a first guess."""
    if record["kind"] == "ddp":
        return 1.0, 1.0
    per_round = setting(record, "inner.steps") * ring_bytes(record["peers"], record["parameters"])
    blobs = record["measured"][1:] or record["measured"]
    up, down = (float(np.mean([blob[way] for blob in blobs])) for way in ("up", "down"))
    return per_round / up, per_round / down


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points (saving, loss) no other beats in one and equals in the other."""
    return [
        not any((s >= saving and b <= loss) and (s, b) != (saving, loss) for s, b in points)
        for saving, loss in points
    ]


def load() -> dict[str, Record]:
    """Name -> record, in the order of the plan."""
    found = {}
    for cell in CELLS:
        if cell.path.exists():
            found[cell.name] = json.loads(cell.path.read_text())
    return found


def groups(records: dict[str, Record]) -> dict[str, list[Record]]:
    """Records that differ by their seed alone, under the name without the seed."""
    grouped = defaultdict(list)
    for name, record in records.items():
        grouped[re.sub(r"-s\d+$", "", name)].append(record)
    return dict(grouped)


def differences(records: dict[str, Record], name: str, base: str) -> list[float]:
    """Relative difference in loss for each seed that both have, in percent."""
    grouped = groups(records)
    ours = {r["seed"]: r["bits_per_byte"] for r in grouped.get(name, [])}
    theirs = {r["seed"]: r["bits_per_byte"] for r in grouped.get(base, [])}
    common = sorted(set(ours) & set(theirs))
    return [100 * (ours[seed] / theirs[seed] - 1) for seed in common]


def gap(records: dict[str, Record], name: str, base: str) -> str:
    """Mean over common seeds of the relative difference in loss, with each seed's own."""
    each = differences(records, name, base)
    if not each:
        return "not run"
    seeds = ", ".join(f"{value:+.2f}" for value in each)
    return f"{np.mean(each):+.2f} %" + (f" ({seeds})" if len(each) > 1 else " (one seed)")


def cells_table(records: dict[str, Record]) -> str:
    """All recipes: tokens, loss by seed, savings."""
    lines = [
        "| recipe | peers | H | rounds | tokens | learning rate | held-out bits per byte, by seed | mean | up | down | merged / own step |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, members in groups(records).items():
        first = members[0]
        losses = [r["bits_per_byte"] for r in members]
        up, down = np.mean([savings(r) for r in members], axis=0)
        ddp = first["kind"] == "ddp"
        ratio = "" if ddp else first["measured"][-1]["merged_to_own_norm"]
        each = ", ".join(f"{r['bits_per_byte']:.4f} (s{r['seed']})" for r in members)
        h = 1 if ddp else setting(first, "inner.steps")
        rounds = "" if ddp else setting(first, "rounds.count")
        lines.append(
            f"| {name} | {first['peers']} | {h} | {rounds} "
            f"| {first['tokens']:,} | {setting(first, 'inner.learning_rate')} "
            f"| {each} | {np.mean(losses):.4f} | {up:,.0f}x | {down:,.0f}x | {ratio} |"
        )
    return "\n".join(lines)


def front_table(records: dict[str, Record], peers: int = 4) -> str:
    """Loss against savings on seed 0; only runs on as many tokens compare. Cells that no other
    beats in loss and saving, up or down, are marked."""
    lines = [
        "| tokens | recipe | bits per byte | up | on the front | down | on the front |",
        "|---|---|---|---|---|---|---|",
    ]
    of_seed = {n: r for n, r in records.items() if r["seed"] == 0 and r["peers"] == peers}
    for tokens in sorted({r["tokens"] for r in of_seed.values()}, reverse=True):
        chosen = {n: r for n, r in of_seed.items() if r["tokens"] == tokens}
        each = [savings(r) for r in chosen.values()]
        losses = [r["bits_per_byte"] for r in chosen.values()]
        marks = [front(list(zip(way, losses, strict=True))) for way in zip(*each, strict=True)]
        for name, loss, saving, *on in sorted(
            zip(chosen, losses, each, *marks, strict=True), key=lambda row: row[1]
        ):
            up, down = ("yes" if mark else "" for mark in on)
            lines.append(
                f"| {tokens:,} | {name} | {loss:.4f} | {saving[0]:,.0f}x | {up} "
                f"| {saving[1]:,.0f}x | {down} |"
            )
    return "\n".join(lines)


def residual_table(records: dict[str, Record]) -> str:
    """Norms at the blobs measured: how much is held back, and how large the merged step is."""
    lines = [
        "| cell | round | bytes up | bytes down | merged / own step | residual / own step |",
        "|---|---|---|---|---|---|",
    ]
    for name, record in records.items():
        if record["kind"] == "ddp" or not any(
            m["residual_to_own_norm"] for m in record["measured"]
        ):
            continue
        chosen = record["measured"]
        for blob in (chosen[0], chosen[len(chosen) // 2], chosen[-1]):
            lines.append(
                f"| {name} | {blob['round']} | {blob['up']:,.0f} | {blob['down']:,.0f} "
                f"| {blob['merged_to_own_norm']:.2f} | {blob['residual_to_own_norm']:.2f} |"
            )
    return "\n".join(lines)


def gaps_table(records: dict[str, Record]) -> str:
    """Each swarm recipe against itself with float32 exchanged, and against the better DDP on as many
    tokens, with as many peers: of the DDP recipes with the most seeds in common the one that is
    furthest ahead."""
    lines = [
        "| recipe | against the same with fp32 exchange | against the better DDP | which is |",
        "|---|---|---|---|",
    ]
    grouped = groups(records)
    bases = uncompressed({name: members[0] for name, members in grouped.items()})
    for name, members in grouped.items():
        if members[0]["kind"] == "ddp":
            continue
        key = members[0]["tokens"], members[0]["peers"]
        like = {n: r[0] for n, r in grouped.items() if (r[0]["tokens"], r[0]["peers"]) == key}
        ddp = {n: differences(records, name, n) for n in like if like[n]["kind"] == "ddp"}
        best = max(ddp, key=lambda n: (len(ddp[n]), sum(ddp[n])), default="")
        base = bases.get(name, "")
        lines.append(
            f"| {name} | {'' if name == base else gap(records, name, base)} "
            f"| {gap(records, name, best)} | {best} |"
        )
    return "\n".join(lines)


def curves_table(records: dict[str, Record]) -> str:
    """Held-out bits per byte on the way, on the first 8,192 tokens."""
    rounds = [int(point[0]) for point in next(iter(records.values()))["curve"]]
    lines = [
        "| cell | " + " | ".join(f"round {r}" for r in rounds) + " |",
        "|---" * (len(rounds) + 1) + "|",
    ]
    for name, record in records.items():
        values = " | ".join(f"{bits:.4f}" for _, bits in record["curve"])
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines)


def write() -> None:
    """Replace what stands between the markers of docs/parity-cells.md."""
    records = load()
    parts = {
        "cells": cells_table(records),
        "gaps": gaps_table(records),
        "front": front_table(records),
        "residuals": residual_table(records),
        "curves": curves_table(records),
    }
    page.fill(DOCUMENT, parts)
