"""The report of a run as one self-contained page: what came of it, its plots, its specification."""

import html
from collections.abc import Callable, Sequence

from duckweed.pages.page import Figure, Table, page, table, titled
from duckweed.pages.run_summary import DATA_PARALLEL, Summary, bits_per_byte, fewer
from duckweed.round.run_log import PHASES, PURPOSES, Round, RunLog, mean_phases, run_log
from duckweed.run import toml
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec
from duckweed.run.units import show_count, show_size, show_time

TRAINING, HELD_OUT, SLOWEST = "#8fa398", "#2f9e63", "#c0392b"
COLORS = {
    "train": "#2f9e63",
    "evaluate": "#8a8f2a",
    "compress": "#3b7dd8",
    "send": "#d9822b",
    "wait": "#a9b3ac",
    "fetch": "#a64ca6",
    "apply": "#16808a",
}
BARS = 200
"""More rounds than this share a bar: narrower bars cannot be told apart."""
DOTS = 60
"""More points than this are drawn as a line alone."""


def run_page(folder: RunFolder, spec: RunSpec, summary: Summary) -> str:
    """The whole page as a string. Raises as `duckweed.round.run_log.run_log` does."""
    told = run_log(folder)
    figures = {"loss-tokens": loss_plot(told, summary, "tokens")}
    if summary.timed:
        figures |= {
            "loss-bytes": loss_plot(told, summary, "bytes"),
            "time": time_plot(told.rounds),
            "peers": peers_plot(told, spec.tokens_of),
        }
    return page(
        "run.html",
        f"duckweed run {folder.path.name}",
        figures,
        verdict=verdict(summary),
        story=story(summary),
        facts=facts(summary),
        traffic=traffic(summary) if summary.timed else None,
        comparison=comparison(summary) if summary.timed else "",
        phases=phases(summary),
        overlap=bool(spec.rounds.overlap),
        computing=computing(summary),
        sample=summary.sample.strip(),
        specification=toml.write(spec),
        proof=[
            ("run", spec.identity),
            ("state after the last round", summary.state),
            ("head of the ledger", summary.head),
        ],
        folder=summary.folder,
    )


# --- words


def peers(count: int) -> str:
    return "1 peer" if count == 1 else f"{count:,} peers"


def verdict(summary: Summary) -> str:
    """One sentence that says whether it worked."""
    start, end = summary.held_out_start, summary.held_out_end
    who = f"{peers(summary.peers)} trained a model of {show_count(summary.parameters)} parameters"
    if start is None and end is not None and not summary.timed:
        return f"{who} to {end:.2f} {summary.unit('unseen')}"
    if start is None or end is None:
        return f"{who}; its loss on unseen text was not measured before and after"
    if end >= start:
        of = "of problems not solved" if summary.solves else "bits per byte"
        return f"{who}, but it did not learn: {start:.2f} {of} became {end:.2f}"
    return f"{who}: from {start:.2f} to {end:.2f} {summary.unit('unseen')}"


def story(summary: Summary) -> str:
    """What it took, in a paragraph."""
    rounds = f"{summary.rounds:,} {'round' if summary.rounds == 1 else 'rounds'}"
    if summary.rounds < summary.planned:
        rounds += f" of {summary.planned:,}"
    if not summary.timed:
        return (
            f"{rounds} over {summary.tokens:,} tokens. This is the report of one who took part: what each round "
            "took, in time and bytes, only the coordinator has measured."
        )
    clock = " on simulated links" if summary.simulated else ""
    rate = summary.tokens_per_second
    pace = f" ({rate:,.0f} a second)" if rate else ""
    text = (
        f"{rounds} over {summary.tokens:,} tokens took {show_time(summary.seconds)}{clock}{pace}. "
    )
    text += (
        f"The peers sent {show_size(summary.total.up)} and received {show_size(summary.total.down)}"
    )
    up, down = summary.saving_up, summary.saving_down
    if up is None or down is None:
        return text + "."
    return text + (
        f": {fewer(up)} bytes up and {fewer(down)} down than data-parallel training of the same tokens "
        f"would have moved ({show_size(summary.data_parallel)} each way)."
    )


def facts(summary: Summary) -> Table:
    """All figures as a table."""

    def bits(value: float | None) -> str:
        return "not measured" if value is None else f"{value:.4f} {unit}"

    unit = "of problems not solved" if summary.solves else "bits per byte"
    written = [("answers in the last rounds", summary.written)] if summary.written else []

    rate = summary.tokens_per_second
    start = [("held-out loss at the start", bits(summary.held_out_start))]
    times = [
        ("time of all rounds", show_time(summary.seconds)),
        ("tokens a second", f"{rate:,.0f}" if rate else "-"),
    ]
    rows = [
        *(start if summary.timed or summary.held_out_start is not None else ()),
        ("held-out loss at the end", bits(summary.held_out_end)),
        *written,
        ("rounds", f"{summary.rounds:,} of {summary.planned:,}"),
        ("peers", f"{summary.peers:,}"),
        ("contributions that counted", f"{summary.contributions:,}"),
        ("contributions that did not", f"{summary.rejected:,}"),
        ("parameters", f"{summary.parameters:,}"),
        ("tokens", f"{summary.tokens:,}"),
        ("bytes of held-out text per token", f"{summary.bytes_per_token:.3f}"),
        *(times if summary.timed else ()),
    ]
    return table(("what came of it", ""), rows)


def phases(summary: Summary) -> str:
    """Mean seconds by phase in a sentence."""
    each = [f"{phase} {seconds:.2f} s" for phase, seconds in summary.phases.items() if seconds]
    return f"Mean of all rounds: {', '.join(each)}." if each else ""


def traffic(summary: Summary) -> Table:
    """Bytes by purpose and way, and what data-parallel training would have cost."""

    def row(name: str, up: float, down: float) -> tuple[str, str, str]:
        return name, show_size(up), show_size(down)

    moved = [(purpose, summary.traffic[purpose]) for purpose in PURPOSES]
    rows = [row(purpose, t.up, t.down) for purpose, t in moved]
    rows.append(row("together", summary.total.up, summary.total.down))
    rows.append(row("each peer", summary.up_per_peer, summary.down_per_peer))
    up, down = summary.saving_up, summary.saving_down
    if up is not None and down is not None:
        rows.append(row("data-parallel training", summary.data_parallel, summary.data_parallel))
        rows.append(("saving", f"{up:,.1f} x", f"{down:,.1f} x"))
    return table(("bytes on the wire, all peers", "up", "down"), rows)


def comparison(summary: Summary) -> str:
    """How the bytes are counted and compared."""
    words = (
        "Bytes are counted where messages enter and leave the transport, without the headers of "
        "its packets. "
    )
    if summary.simulated:
        words += (
            "A simulated run counts what peers contribute and fetch, not the messages around it. "
        )
    if summary.data_parallel:
        words += (
            f"Data-parallel training of the same tokens: {DATA_PARALLEL}; a ring all-reduce of bf16 "
            f"gradients, M the peers that counted in the round, P = {summary.parameters:,} parameters."
        )
    else:
        words += "With one peer data-parallel training would move nothing."
    return words


def computing(summary: Summary) -> str:
    """Which share of its time each peer computed; empty if nothing was measured."""
    shares = summary.utilisation
    each = ", ".join(f"peer {peer} {share:.0%}" for peer, share in shares.items())
    return f"Share of the time in which it trained or evaluated: {each}." if each else ""


# --- plots


def short(value: float) -> float:
    """Five significant digits: finer than a screen, half the page."""
    return float(f"{value:.5g}")


def loss_plot(told: RunLog, summary: Summary, against: str) -> Figure:
    """Held-out and training loss in bits per byte, against tokens or bytes on the wire."""
    training: list[tuple[float, float]] = []
    held_out: list[tuple[float, float]] = []
    before: float | None = 0.0
    tokens = 0
    for one in told.rounds:
        tokens += one.tokens
        moved = one.traffic.up + one.traffic.down if one.traffic else None
        after = float(tokens) if against == "tokens" else moved
        if one.held_out is not None and before is not None:
            held_out.append((before, bits_per_byte(one.held_out, summary.bytes_per_token)))
        if one.loss is not None and after is not None:
            training.append((after, bits_per_byte(one.loss, summary.bytes_per_token)))
        before = after
    if told.final and summary.held_out_end is not None:
        total = float(tokens) if against == "tokens" else summary.total.up + summary.total.down
        held_out.append((total, summary.held_out_end))
    title = "tokens" if against == "tokens" else "bytes on the wire, all peers, up and down"
    axis = {**titled(title), "rangemode": "tozero"}
    return {
        "data": [
            _line("training", training, TRAINING),
            _line("held out", held_out, HELD_OUT, width=3),
        ],
        "layout": {
            "xaxis": axis
            if against == "tokens"
            else {**axis, "ticksuffix": "B", "exponentformat": "SI"},
            "yaxis": titled("share not solved" if summary.solves else "bits per byte"),
            "hovermode": "x unified",
            "showlegend": True,
        },
    }


def _line(name: str, points: Sequence[tuple[float, float]], color: str, width: int = 2) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(points) <= DOTS else "lines",
        "name": name,
        "x": [x for x, _ in points],
        "y": [short(y) for _, y in points],
        "line": {"color": color, "width": width},
        "hovertemplate": "%{y:.3f}",
    }


def time_plot(rounds: Sequence[Round]) -> Figure:
    """Seconds of a round by phase, mean over peers, stacked; and of the peer that was busy longest."""
    known = [r for r in rounds if r.timings]
    size = -(-len(known) // BARS) or 1
    groups = [known[i : i + size] for i in range(0, len(known), size)]
    means = [mean_phases(t for r in group for t in r.timings.values()) for group in groups]
    xs = [(group[0].number + group[-1].number) / 2 for group in groups]
    data: list[Figure] = [
        {
            "type": "bar",
            "name": phase,
            "x": xs,
            "y": [short(m[phase]) for m in means],
            "marker": {"color": COLORS[phase]},
            "hovertemplate": "%{y:.2f} s",
        }
        for phase in PHASES
        if any(m[phase] for m in means)
    ]
    slowest = [short(sum(map(_busiest, group)) / len(group)) for group in groups]
    data.append(
        {
            "type": "scatter",
            "mode": "markers" if len(xs) <= DOTS else "lines",
            "name": "slowest peer, without waiting",
            "x": xs,
            "y": slowest,
            "marker": {"color": SLOWEST, "size": 6},
            "line": {"color": SLOWEST, "width": 1},
            "hovertemplate": "%{y:.2f} s",
        }
    )
    return {
        "data": data,
        "layout": {
            "barmode": "stack",
            "bargap": 0.15 if len(xs) <= DOTS else 0,
            "legend": {"orientation": "h", "y": -0.2, "traceorder": "normal"},
            "hovermode": "x unified",
            "xaxis": {**titled("round"), **_whole(xs)},
            "yaxis": {**titled("seconds"), "rangemode": "tozero"},
        },
    }


def _busiest(one: Round) -> float:
    """Seconds of the peer that was busy longest, without waiting; `wall`, the whole, is no phase."""
    busy = [phase for phase in PHASES if phase != "wait"]
    return max(sum(t.get(phase, 0.0) for phase in busy) for t in one.timings.values())


def peers_plot(told: RunLog, tokens: Callable[[int], int]) -> Figure:
    """Tokens a second of every peer in every round; crosses where a contribution did not count. tokens: of
    a round, by its number."""
    known = {p for r in told.rounds for p in (*r.accepted, *r.rejected)}
    rows = range(max(known, default=-1) + 1)
    xs = [r.number for r in told.rounds]
    speeds = [[_speed(r, peer, tokens(r.number)) for r in told.rounds] for peer in rows]
    refused = [(r.number, peer, reason) for r in told.rounds for peer, reason in r.rejected.items()]
    data: list[Figure] = [
        {
            "type": "heatmap",
            "x": xs,
            "y": list(rows),
            "z": speeds,
            "zmin": 0,
            "zmax": max((z for row in speeds for z in row if z), default=1.0),
            "colorscale": "Viridis",
            "xgap": 1 if len(xs) <= BARS else 0,
            "ygap": 1,
            "colorbar": titled("tokens/s"),
            "hovertemplate": "round %{x}, peer %{y}: %{z:,.0f} tokens/s<extra></extra>",
        }
    ]
    if refused:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [x for x, _, _ in refused],
                "y": [y for _, y, _ in refused],
                "text": [html.escape(why) for _, _, why in refused],
                "marker": {
                    "symbol": "x",
                    "size": 9,
                    "color": SLOWEST,
                    "line": {"color": "#fff", "width": 1},
                },
                "hovertemplate": "round %{x}, peer %{y}: %{text}<extra></extra>",
            }
        )
    return {
        "data": data,
        "layout": {
            "showlegend": False,
            "xaxis": {**titled("round"), "showgrid": False, **_whole(xs)},
            "yaxis": {**titled("peer"), "showgrid": False, **_whole(rows), "autorange": "reversed"},
        },
    }


def _speed(one: Round, peer: int, tokens: int) -> float | None:
    seconds = one.timings.get(peer, {}).get("train", 0.0)
    return short(tokens / seconds) if seconds else None


def _whole(numbers: Sequence[float]) -> Figure:
    """An axis of few whole numbers has a tick at each; plotly would put some between them."""
    return {"dtick": 1} if len(numbers) <= 20 else {}
