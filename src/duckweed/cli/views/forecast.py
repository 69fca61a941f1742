"""The forecast for a terminal: the verdict first, then the numbers it rests on."""

import textwrap
from collections.abc import Sequence

from duckweed.forecast.claims import Claim, of_paths, percent, when
from duckweed.forecast.crossing import Crossing
from duckweed.forecast.outcome import QUANTILES, Outcome, Regimes, Sway, regime
from duckweed.forecast.outlook import Outlook
from duckweed.forecast.scenario import WORLD

WIDTH = 96


def columns(rows: Sequence[Sequence[str]], indent: int = 2) -> str:
    """Rows as columns, the first left, the others right aligned where they are numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i == 0 or not cell[:1].isdigit() else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(" " * indent + "  ".join(cells).rstrip())
    return "\n".join(lines)


def wrap(text: str, indent: int = 2, hanging: int | None = None) -> str:
    after = " " * (indent if hanging is None else hanging)
    return textwrap.fill(text, WIDTH, initial_indent=" " * indent, subsequent_indent=after)


def summary(result: Outlook, claims: Sequence[Claim]) -> str:
    """The page that `duckweed forecast` prints."""
    parts = [
        f"Forecast as of {result.as_of}",
        "",
        verdicts(claims),
        "",
        gaps(result),
        "",
        growth(result),
    ]
    if result.held:
        parts += ["", held(result)]
    parts += [""] + [wrap(f"Note: {note}", 0) for note in [*result.missing, *result.notes]]
    parts.append(
        wrap(
            f"From {result.models} models ({result.with_compute} with known compute, newest "
            f"{result.newest}). More: --claims, --race essay, --explain, --html FILE, "
            "--set decentralised.growth=5x.",
            0,
        )
    )
    return "\n".join(parts)


def verdicts(claims: Sequence[Claim]) -> str:
    """One line each: verdict and why."""
    lines = [f"  {c.number}  {c.verdict:<12}{_one(c)}" for c in claims]
    return "The essay's claims\n" + "\n".join(lines)


def _one(claim: Claim) -> str:
    return ("\n" + " " * 17).join(textwrap.wrap(claim.because, WIDTH - 17))


def claims_page(claims: Sequence[Claim]) -> str:
    """All claims with their numbers."""
    parts = []
    for claim in claims:
        parts += [
            f"{claim.number}. {claim.verdict.upper()}",
            wrap(f'"{claim.text}"', 3),
            wrap(claim.because, 3),
        ]
        if claim.numbers:
            width = max(len(what) for what, _ in claim.numbers)
            parts += [
                wrap(f"{what.ljust(width)}  {value}", 5, 7 + width) for what, value in claim.numbers
            ]
        parts += [wrap(claim.depends, 3), ""]
    return "\n".join(parts).rstrip()


def gaps(result: Outlook) -> str:
    """Where decentralised training stands, and when it arrives."""
    lines = ["Decentralised training"]
    for gap, whom in (
        (result.frontier_gap, "the frontier"),
        (result.china_gap, "Chinese open weights"),
    ):
        if gap:
            years = f", {gap.years:.1f} years" if gap.years is not None else ""
            lines.append(
                wrap(
                    f"{10**gap.orders:,.0f}-fold behind {whom}{years} ({gap.chaser} against {gap.target})"
                )
            )
    for cross in result.crossings.values():
        lines.append(wrap(f"reaches {cross.target}: {crossing_line(cross)}"))
    note = next((c.note for c in result.crossings.values() if c.note), "")
    if note:
        lines.append(
            wrap(
                f"({note}, fewer than five: the dates say little; half the draws let the "
                "growth fade.)"
            )
        )
    lines.append(wrap(of_paths(result)))
    return "\n".join(lines)


def crossing_line(cross: Crossing) -> str:
    by = ", ".join(f"by {year} {percent(p)}" for year, p in cross.by.items())
    return f"{when(cross)}; {by}"


def growth(result: Outlook) -> str:
    rows = [("Growth per year", "median", "80% interval", "doubles in", "points")]
    for row in result.trends:
        sign = "x" if row.doubling is not None or row.unit != "points" else " points"
        low, middle, high = (f"{g:.3g}" for g in row.growth)
        months = f"{row.doubling:.1f} months" if row.doubling else "-"
        few = " (few)" if row.few else ""
        rows.append(
            (f"  {row.label}", f"{middle}{sign}", f"{low} to {high}", months, f"{row.points}{few}")
        )
    return columns(rows, 0)


def held(result: Outlook) -> str:
    """How the fits would have done: error on years they had not seen."""
    rows = [
        (
            "Back-test: error on later years",
            "cut",
            "seen/later",
            "steady",
            "slowing",
            "no growth",
            "in 80%",
        )
    ]
    labels = {row.key: row.label for row in result.trends}
    for key, tests in result.held.items():
        for cut in sorted({t.cut for t in tests}):
            mine = {t.form: t for t in tests if t.cut == cut}
            s = mine["steady"]
            rows.append(
                (
                    f"  {labels.get(key, key)}",
                    f"{cut:.0f}",
                    f"{s.seen}/{s.later}",
                    f"{s.error:.2f}",
                    f"{mine['slowing'].error:.2f}",
                    f"{mine['flat'].error:.2f}",
                    f"{100 * s.inside:.0f}%",
                )
            )
    return (
        columns(rows, 0)
        + "\n"
        + wrap(
            "Errors in orders of magnitude (points for the index); the last column: later points inside "
            "the steady fit's 80% interval."
        )
    )


def race(result: Outcome, sways: Sequence[Sway], regimes: Regimes) -> str:
    """What `--race` prints."""
    first = result.followers[0]
    worst = max(result.followers, key=lambda f: f.chance[0])
    parts = [
        f"Race {result.scenario}: {result.about}",
        "",
        wrap(
            f"{worst.name.capitalize()} falls at least 1, 3, 10 years of today's progress behind within a "
            f"year with probability {', '.join(percent(c) for c in worst.chance)}.",
            0,
        ),
        "",
        _followers(result),
    ]
    if result.diverges:
        parts.append(
            wrap(
                f"The leader diverges in {percent(result.diverges)} of samples, at "
                f"{result.diverges_at:.2f} years (median)."
            )
        )
    if result.found_by:
        found = ", ".join(f"{name} {percent(p)}" for name, p in result.found_by.items())
        parts.append(wrap(f"The new paradigm is found by: {found}."))
    parts += ["", f"On what it depends (P({first.name} at least 1 year behind within a year))"]
    bins: list[tuple[str, ...]] = [
        ("  returns to research", "samples", "1 year", "3 years", "10 years")
    ]
    for part in result.by_returns:
        if part.samples:
            span = f"  {part.low:g} to {part.high:g}".replace(" to inf", " and more")
            bins.append((span, str(part.samples), *(percent(c) for c in part.chance)))
    parts.append(columns(bins, 0))
    if sways:
        rows = [("  each alone, over its interval", "low end", "high end")]
        for sway in sways:
            rows.append(
                (
                    f"  {sway.name} {sway.low:g} to {sway.high:g}",
                    percent(sway.at_low),
                    percent(sway.at_high),
                )
            )
        parts += ["", columns(rows, 0)]
    parts += [
        "",
        regime_map(regimes),
        "",
        f"{result.samples} samples; parameters and sources: --explain.",
    ]
    return "\n".join(parts)


def _followers(result: Outcome) -> str:
    marks = "/".join(f"{q:.0%}"[:-1] for q in QUANTILES) + " %"
    rows = [
        (
            f"After {result.horizon:g} years, {marks}",
            "lag on the calendar",
            "progress gap",
            "largest gap in year 1",
            "closer",
        )
    ]
    for f in result.followers:
        rows.append(
            (
                f"  {f.name} (started {12 * f.start:.1f} months behind)",
                _months(f.lag),
                _months(f.gap),
                _months(f.peak),
                percent(f.closer),
            )
        )
    return columns(rows, 0)


def _months(values: Sequence[float]) -> str:
    if max(values) >= 3:
        return "/".join(f"{v:.2g}" for v in values) + " years"
    return "/".join(f"{12 * v:.1f}" for v in values) + " months"


SIGNS = {"catches up": "+", "keeps pace": "=", "falls behind": ".", "left in the dust": "#"}


def regime_map(found: Regimes) -> str:
    """The map over returns (across) and leak (down), one block per share of compute."""
    lines = [
        f"Regimes after {found.horizon:g} years over returns (across, 0.5 to 3.5) and leak (down, 1 to 0; "
        "after a month), by the follower's compute"
    ]
    blocks = []
    for place, share in enumerate(found.compute):
        block = [f"{share:g}x".ljust(len(found.returns))]
        for row in reversed(found.gap[place][::4]):
            block.append("".join(SIGNS[regime(g, found.start)] for g in row))
        blocks.append(block)
    lines += ["  " + "   ".join(parts) for parts in zip(*blocks, strict=True)]
    lines.append("  " + ", ".join(f"{sign} {name}" for name, sign in SIGNS.items()))
    return "\n".join(lines)


def explained(rows: Sequence[tuple[str, str, str, str, str]]) -> str:
    """Every parameter with value, unit, reason and source."""
    parts = []
    for name, value, unit, reason, source in rows:
        parts += [
            f"{name} = {value}",
            wrap(f"unit: {unit}. {reason}.", 4),
            wrap(f"source: {source}", 4),
        ]
    parts.append(f"Change one with --set race.{next(iter(WORLD))}=1.5 or a range, 0.8..1.6.")
    return "\n".join(parts)
