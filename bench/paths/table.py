"""The tables of docs/paths-measured.md, of the cells that have a record."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

from bench.paths import plan
from bench.paths.product import named

RESULTS = Path(__file__).parents[1] / "results" / "paths"
DOCUMENT = Path(__file__).parents[2] / "docs" / "paths-measured.md"
BEGIN, END = "<!-- {} -->\n", "<!-- end of {} -->"
NAMES = {"dense": "one dense model", "none": "separate paths", "trunk": "common trunk"}
FORBIDDEN = {
    "ddp": "one dense model, data parallelism",
    "whole": "dense model of the whole size",
    "top1": "mixture of experts of the whole size, one of a token",
    "top2": "the same, two of a token",
}

Record = dict[str, Any]


def records() -> dict[str, Record]:
    found = {}
    for name in [*plan.CELLS, "routers", "paired", "cost", "churn", "product"]:
        if (path := RESULTS / f"{name}.json").exists():
            found[name] = json.loads(path.read_text())
    return found


def keep(name: str, record: Record) -> None:
    """Write a record, whole or not at all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    part = RESULTS / f"{name}.part"
    part.write_text(json.dumps(record, indent=1) + "\n")
    part.replace(RESULTS / f"{name}.json")


def write() -> None:
    """Each table between its markers."""
    text, found = DOCUMENT.read_text(), records()
    for name, table in TABLES.items():
        begin, end = BEGIN.format(name), END.format(name)
        before, rest = text.split(begin)
        text = before + begin + "\n".join(table(found)) + "\n" + end + rest.split(end)[1]
    DOCUMENT.write_text(text)
    print(f"{len(found)} records; not run: {left(found)[0]}")


def head(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


def row(*cells: Any) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def bits(one: Record | None) -> str:
    return f"{one['bits_per_byte']:.3f}" if one else ""


def gain(one: float, dense: float) -> str:
    return f"{100 * (one / dense - 1):+.1f} %"


def against(one: Record | None, dense: Record | None) -> str:
    if one is None or dense is None:
        return ""
    return f"{bits(one)} ({gain(one['bits_per_byte'], dense['bits_per_byte'])})"


def routers(found: dict[str, Record]) -> list[str]:
    lines = head("router", "bits per byte", "of the gain by true domains", "purity")
    for one in found.get("routers", {}).get("compared", []):
        lines.append(
            row(one["router"], f"{one['bits']:.3f}", f"{one['share']:.0%}", f"{one['purity']:.2f}")
        )
    return lines


def rates(found: dict[str, Record]) -> list[str]:
    tried = sorted({*plan.RATES, *plan.RATES_ABOVE})
    lines = head("form", *(f"rate {rate}" for rate in tried))
    for kind, name in (NAMES | FORBIDDEN).items():
        lines.append(row(name, *(bits(found.get(f"rate-{kind}-{rate}")) for rate in tried)))
    return lines


def seeds(found: dict[str, Record]) -> list[str]:
    lines = head("form", "seed 0", "seed 1", "seed 2", "mean gain over dense", "from .. to")
    for kind, name in NAMES.items():
        pairs = [(found.get(f"{kind}-seed{s}"), found.get(f"dense-seed{s}")) for s in range(3)]
        cells = [against(a, b) if kind != "dense" else bits(a) for a, b in pairs]
        gains = [
            100 * (a["bits_per_byte"] / b["bits_per_byte"] - 1)
            for a, b in pairs
            if a and b and kind != "dense"
        ]
        mean = f"{sum(gains) / len(gains):+.1f} %" if gains else ""
        spread = f"{min(gains):+.1f} .. {max(gains):+.1f} %" if gains else ""
        lines.append(row(name, *cells, mean, spread))
    return lines


def windows(found: dict[str, Record]) -> list[str]:
    lines = head(
        "form, seed 0", "bits per byte", "gain", "standard error", "windows that gain", "first 300"
    )
    for name, one in found.get("paired", {}).items():
        numbers = (f"{one['percent']:+.2f} %", f"{one['error']:.2f} %", f"{one['better']:.0%}")
        if name.startswith("dense"):
            numbers = ("", "", "")
        kind = NAMES[name.partition("-")[0]]
        lines.append(row(kind, f"{one['bits']:.3f}", *numbers, f"{one['first']:.3f}"))
    return lines


def domains(found: dict[str, Record]) -> list[str]:
    """Mean over the seeds that all three forms have."""
    shared = [s for s in range(3) if all(f"{kind}-seed{s}" in found for kind in NAMES)]
    lines = head("domain", *NAMES.values())
    if not shared:
        return lines

    def mean(kind: str, domain: str) -> float:
        return sum(found[f"{kind}-seed{s}"]["by_domain"][domain] for s in shared) / len(shared)

    for domain in found[f"dense-seed{shared[0]}"]["by_domain"]:
        dense = mean("dense", domain)
        cells = [f"{mean(k, domain):.3f} ({gain(mean(k, domain), dense)})" for k in NAMES]
        lines.append(row(domain, f"{dense:.3f}", *cells[1:]))
    return lines


def curve(found: dict[str, Record]) -> list[str]:
    dense = found.get("dense-seed0")
    lines = head("form", "tokens per held parameter: bits (gain)")
    if dense is None:
        return lines
    held, points = dense["held"], dict(dense["curve"])
    lines = head("form", *(f"{tokens / held:.1f}" for tokens in points))
    for kind, name in NAMES.items():
        if one := found.get(f"{kind}-seed0"):
            cells = []
            for tokens, value in one["curve"]:
                more = f" ({gain(value, points[tokens])})" if kind != "dense" else ""
                cells.append(f"{value:.3f}{more}")
            lines.append(row(name, *cells))
    return lines


def numbers(found: dict[str, Record]) -> list[str]:
    dense = found.get("half-dense")
    lines = head(
        "K", NAMES["none"], NAMES["trunk"], f"{FORBIDDEN['whole']}, data parallelism",
        f"{FORBIDDEN['top1']}, likewise", "parameters in all: separate, trunk",
    )  # fmt: skip
    for count in (2, 4, 8, 16):
        end = "" if count == 8 else f"-k{count}"
        cells = [found.get(f"half-{kind}{end}") for kind in ("none", "trunk")]
        sizes = ", ".join(f"{one['total']:,}" for one in cells if one)
        cells += [found.get(f"half-{kind}{end}") for kind in ("whole", "top1")]
        lines.append(row(count, *(against(one, dense) for one in cells), sizes))
    return lines


def single(found: dict[str, Record]) -> list[str]:
    lines = head("form", "Python alone", "the twelve domains, as far")
    for kind, name in NAMES.items():
        cells = []
        for start in ("python", "half"):
            one, dense = found.get(f"{start}-{kind}"), found.get(f"{start}-dense")
            cells.append(bits(one) if kind == "dense" else against(one, dense))
        lines.append(row(name, *cells))
    return lines


def choices(found: dict[str, Record]) -> list[str]:
    dense = found.get("half-dense")
    lines = head("what is changed", "bits per byte (against dense)")
    told = {
        "none": "separate paths: common start of 15 %, moments kept, steps whole",
        "none-start0.0": "no common start",
        "none-start0.3": "common start of 30 %",
        "none-dropped": "moments dropped where paths branch",
        "none-factor0.6": "steps of one contributor times 0.6",
        "none-rate0.02": "learning rate of the other forms, 0.02",
        "trunk": "common trunk: common start of 15 %, steps whole",
        "trunk-factor0.6": "steps of one contributor times 0.6",
    }
    for name, what in told.items():
        if one := found.get(f"half-{name}"):
            lines.append(row(what, against(one, dense)))
    return lines


def lengths(found: dict[str, Record]) -> list[str]:
    lines = head("what is merged", "after round: length over that of a contributor's step")
    for name, place, what in (
        ("dense-seed0", 2, "dense, 8 contributors"),
        ("trunk-seed0", 1, "trunk, 8 contributors of 8 paths"),
        ("half-none-k2", 2, "separate, 4 contributors each"),
        ("half-none-k4", 2, "separate, 2 contributors each"),
        ("none-seed0", 2, "separate, 1 contributor each"),
    ):
        if one := found.get(name):
            lines.append(row(what, ", ".join(f"{x[0]}: {x[place]:.2f}" for x in one["lengths"])))
    return lines


def mixtures(found: dict[str, Record]) -> list[str]:
    made = {kind: found.get(f"{kind}-seed0", {}).get("mixed") for kind in ("none", "trunk")}
    lines = head("how a window is predicted", *(NAMES[kind] for kind, one in made.items() if one))
    names = next((list(one) for one in made.values() if one), [])
    for name in names:
        cells = []
        for one in made.values():
            if one:
                more = "" if name == "routed" else f" ({gain(one[name], one['routed'])})"
                cells.append(f"{one[name]:.3f}{more}")
        lines.append(row(name, *cells))
    return lines


def forbidden(found: dict[str, Record]) -> list[str]:
    lines = head(
        "model", "parameters, of which a token passes", "rate", "half the length", "seed 0", "seed 1", "seed 2",
        "Python alone, half",
    )  # fmt: skip
    for kind, name in (NAMES | FORBIDDEN).items():
        names = (f"half-{kind}", *(f"{kind}-seed{n}" for n in range(3)), f"python-{kind}")
        cells = [(found.get(one), found.get(one.replace(kind, "dense"))) for one in names]
        some = next((one for one, _ in cells if one), None)
        if not some:
            continue
        active = some.get("active", some["held"])
        size = f"{some['total']:,}, {active:,}"
        told = [bits(one) if kind == "dense" else against(one, dense) for one, dense in cells]
        lines.append(row(name, size, some["cell"]["rate"], *told))
    return lines


def asked(found: dict[str, Record]) -> list[str]:
    lines = head(
        "size of a path", "model", "K", "parameters in all", "rate", "seed 0", "seed 1", "seed 2", "Python alone",
        "seed 0, guide 0.04", "seed 1, guide 0.04", "seed 2, guide 0.04",
    )  # fmt: skip
    for size in plan.LARGER:
        for kind, name in (NAMES | FORBIDDEN).items():
            for paths in plan.paths_of(kind):
                own = plan.name_of(kind, paths)
                ends = [f"{size}-{{}}-seed{n}" for n in range(3)]
                guided = f"{size}-{{}}-guide-0.04"
                ends += [f"{size}-python-{{}}", guided, f"{guided}-seed1", f"{guided}-seed2"]
                cells = [found.get(end.format(own)) for end in ends]
                dense = [found.get(end.format("dense")) for end in ends]
                if not any(cells):
                    continue
                some = next(one for one in cells if one)
                told = [against(*pair) or bits(pair[0]) for pair in zip(cells, dense, strict=True)]
                count = paths if own != kind else ""
                lines.append(
                    row(size, name, count, f"{some['total']:,}", some["cell"]["rate"], *told)
                )
    return lines


def sizes(found: dict[str, Record]) -> list[str]:
    """Dense sizes at equal tokens, and between which of them the paths are, linear in log size."""
    lines = head("model", "parameters of a peer", "bits per byte")
    known = []
    for name in ("half-dense", "half-dense-136k", "half-dense-259k"):
        if one := found.get(name):
            known.append((math.log(one["held"]), one["bits_per_byte"]))
            lines.append(row("dense", f"{one['held']:,}", bits(one)))
    for kind in ("none", "trunk"):
        one = found.get(f"half-{kind}")
        if not one or len(known) < 2:
            continue
        size = interpolated(known, one["bits_per_byte"])
        lines.append(
            row(
                f"{NAMES[kind]}, K = 8: worth {size / 1e3:,.0f} thousand, "
                f"{size / one['held']:.1f} times a path; {one['total']:,} in all",
                f"{one['held']:,}",
                bits(one),
            )
        )
    return lines


def interpolated(known: list[tuple[float, float]], value: float) -> float:
    """The size at which dense models reach a value, from (log size, bits), the sizes rising; beyond the
    last two by their line."""
    pairs = list(itertools.pairwise(known))
    for (a, x), (b, y) in pairs:
        if value >= y or (b, y) == known[-1]:
            return math.exp(a + (b - a) * (x - value) / (x - y))
    raise ValueError("no two sizes")


def cost(found: dict[str, Record]) -> list[str]:
    names = (
        "what is trained",
        "parameters of a peer",
        "in all",
        "a contribution, up",
        "an update, down",
    )
    lines = head(*names, "all that passed the coordinators, up and down", "most memory of a peer")
    for name, one in found.get("cost", {}).get("cells", {}).items():
        held = one["parameters"]
        kilobytes = {key: f"{value / 1e3:,.0f}" for key, value in one["real"].items()}
        lines.append(
            row(
                name,
                f"{held:,}",
                f"{held * max(1, one['paths']):,}",
                f"{kilobytes['contribution']} kB",
                f"{kilobytes['update']} kB",
                f"{kilobytes['up']}, {kilobytes['down']} kB",
                f"{one['peak'] / 1e6:,.0f} MB",
            )
        )
    return lines


def churn(found: dict[str, Record]) -> list[str]:
    lines = head(
        "family", "calm", "half of the peers replaced", "by path", "accepted tokens against calm"
    )
    for name, one in found.get("churn", {}).items():
        calm, other = one["calm"], one["churn"]
        each = [gain(b, a) for a, b in zip(calm["paths"], other["paths"], strict=True)]
        tokens = sum(other["tokens"]) / sum(calm["tokens"])
        lines.append(
            row(name, bits(calm), against(other, calm), ", ".join(each), f"{tokens - 1:+.1%}")
        )
    return lines


def product(found: dict[str, Record]) -> list[str]:
    told = found.get("product", {})
    cases = sorted({(one.get("own", False), one["levels"], one["seed"]) for one in told.values()})
    lines = head(
        "levels",
        "seed",
        "begun with the residual",
        *NAMES.values(),
        "a contribution, up",
        "the updates of a round, down",
    )
    for own, levels, seed in cases:
        cells = [told.get(named(form, levels, seed, own)) for form in NAMES]
        sizes = (
            ", ".join(f"{one[what] / 1e3:,.0f}" for one in cells if one)
            for what in ("contribution_bytes", "update_bytes")
        )
        dense, *others = cells
        shown = bits(dense), *(against(one, dense) for one in others)
        lines.append(
            row(levels, seed, "yes" if own else "no", *shown, *(f"{size} kB" for size in sizes))
        )
    return lines


def left(found: dict[str, Record]) -> list[str]:
    names = [f"`{name}`" for name in plan.FIRST if name not in found]
    return [", ".join(names) + "." if names else "Nothing is missing."]


TABLES = {
    "seeds": seeds,
    "windows": windows,
    "domains": domains,
    "curve": curve,
    "single": single,
    "numbers": numbers,
    "forbidden": forbidden,
    "asked": asked,
    "choices": choices,
    "lengths": lengths,
    "mixtures": mixtures,
    "sizes": sizes,
    "rates": rates,
    "routers": routers,
    "left": left,
    "cost": cost,
    "churn": churn,
    "product": product,
}
