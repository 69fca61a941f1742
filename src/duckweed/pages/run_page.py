"""The report of a run as one self-contained page: what came of it, its plots, its specification."""

import html
from collections.abc import Sequence

from duckweed.pages.page import Figure, figure_slot, page, table
from duckweed.pages.run_summary import DATA_PARALLEL, Summary, bits_per_byte, fewer
from duckweed.round.run_log import PHASES, PURPOSES, History, Round, history, mean_phases
from duckweed.run import toml
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec
from duckweed.run.units import show_count, show_size, show_time

TRAINING, HELD_OUT, SLOWEST = "#8fa398", "#2f9e63", "#c0392b"
COLORS = {
    "train": "#2f9e63", "evaluate": "#8a8f2a", "compress": "#3b7dd8", "send": "#d9822b",
    "wait": "#a9b3ac", "fetch": "#a64ca6", "apply": "#16808a",
}  # fmt: skip
BARS = 200  # more rounds than this share a bar: narrower bars cannot be told apart
AT_ONCE = " Phases overlap (rounds.overlap): together they are longer than the time that passed."
DOTS = 60  # more points than this are drawn as a line alone


def run_page(folder: RunFolder, spec: RunSpec, summary: Summary) -> str:
    """The whole page as a string. Raises as `duckweed.round.run_log.history` does."""
    told = history(folder)
    figures = {
        "loss-tokens": loss_plot(told, summary, "tokens"),
        "loss-bytes": loss_plot(told, summary, "bytes"),
        "time": time_plot(told.rounds),
        "peers": peers_plot(told, spec.tokens_per_block),
    }
    body = [
        f"<h1>{html.escape(verdict(summary))}</h1>",
        paragraph(story(summary)),
        f'<div class="pair">{facts(summary)}{traffic(summary)}</div>',
        comparison(summary),
        "<h2>Loss</h2>",
        figure_slot("loss-tokens"),
        figure_slot("loss-bytes"),
        paragraph(
            "Held-out text is never trained on; a point is the model that a round started from. The "
            "finished model, at the end of the line, is measured on more text. Training loss is the mean over the "
            "peers that counted, each on its own text and its own weights. Bytes are those of all peers, "
            "up and down, until then.",
            "soft",
        ),
        "<h2>Time of a round</h2>", figure_slot("time"),
        paragraph(
            "Mean over the peers, from one contribution to the next. Waiting is for the other peers; the "
            "red marks are the peer that was busy longest. " + phases(summary)
            + (AT_ONCE if spec.rounds.overlap else ""),
            "soft",
        ),
        "<h2>Peers</h2>", figure_slot("peers"),
        paragraph(
            "Tokens a second while training. A cross marks a contribution that did not count, with the "
            "reason; a gap, a round in which the peer took no part or of which nothing was recorded. "
            + computing(summary),
            "soft",
        ),
        *sample(summary),
        "<h2>Specification</h2>",
        f"<details><summary>run.toml</summary><pre>{html.escape(toml.write(spec))}</pre></details>",
        "<h2>Proof</h2>", proof(spec, summary),
    ]  # fmt: skip
    return page(f"duckweed run {folder.path.name}", "".join(body), figures)


def paragraph(text: str, kind: str = "") -> str:
    return f"<p{f' class={kind}' if kind else ''}>{html.escape(text)}</p>"


# --- words


def peers(count: int) -> str:
    return "1 peer" if count == 1 else f"{count:,} peers"


def verdict(summary: Summary) -> str:
    """One sentence that says whether it worked."""
    start, end = summary.held_out_start, summary.held_out_end
    who = f"{peers(summary.peers)} trained a model of {show_count(summary.parameters)} parameters"
    if start is None or end is None:
        return f"{who}; its loss on unseen text was not measured before and after"
    if end >= start:
        return f"{who}, but it did not learn: {start:.2f} bits per byte became {end:.2f}"
    return f"{who}: from {start:.2f} to {end:.2f} bits per byte of unseen text"


def story(summary: Summary) -> str:
    """What it took, in a paragraph."""
    rounds = f"{summary.rounds:,} {'round' if summary.rounds == 1 else 'rounds'}"
    if summary.rounds < summary.planned:
        rounds += f" of {summary.planned:,}"
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


def facts(summary: Summary) -> str:
    """All figures as a table."""

    def bits(value: float | None) -> str:
        return "not measured" if value is None else f"{value:.4f} bits per byte"

    rate = summary.tokens_per_second
    rows = [
        ("held-out loss at the start", bits(summary.held_out_start)),
        ("held-out loss at the end", bits(summary.held_out_end)),
        ("rounds", f"{summary.rounds:,} of {summary.planned:,}"),
        ("peers", f"{summary.peers:,}"),
        ("contributions that counted", f"{summary.contributions:,}"),
        ("contributions that did not", f"{summary.rejected:,}"),
        ("parameters", f"{summary.parameters:,}"),
        ("tokens", f"{summary.tokens:,}"),
        ("bytes of held-out text per token", f"{summary.bytes_per_token:.3f}"),
        ("time of all rounds", show_time(summary.seconds)),
        ("tokens a second", f"{rate:,.0f}" if rate else "-"),
    ]
    return table(("what came of it", ""), rows)


def phases(summary: Summary) -> str:
    """Mean seconds by phase in a sentence."""
    each = [f"{phase} {seconds:.2f} s" for phase, seconds in summary.phases.items() if seconds]
    return f"Mean of all rounds: {', '.join(each)}." if each else ""


def traffic(summary: Summary) -> str:
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
    return paragraph(words, "soft")


def computing(summary: Summary) -> str:
    """Which share of its time each peer computed; empty if nothing was measured."""
    shares = summary.utilisation
    each = ", ".join(f"peer {peer} {share:.0%}" for peer, share in shares.items())
    return f"Share of the time in which it trained or evaluated: {each}." if each else ""


def sample(summary: Summary) -> list[str]:
    if not summary.sample:
        return []
    return ["<h2>The model writes</h2>", f"<pre>{html.escape(summary.sample.strip())}</pre>"]


def proof(spec: RunSpec, summary: Summary) -> str:
    rows = [
        ("run", spec.identity),
        ("state after the last round", summary.state),
        ("head of the ledger", summary.head),
    ]
    lines = "".join(f"<tr><td>{k}</td><td><code>{html.escape(v)}</code></td></tr>" for k, v in rows)
    return (
        f'<div class="wide"><table>{lines}</table></div><p class="soft"><code>duckweed show '
        f"{html.escape(summary.folder)}</code> checks the chain of hashes and its signatures, and lists "
        "every contribution.</p>"
    )


# --- plots


def short(value: float) -> float:
    """Five significant digits: finer than a screen, half the page."""
    return float(f"{value:.5g}")


def loss_plot(told: History, summary: Summary, against: str) -> Figure:
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
    axis = {"title": {"text": title}, "rangemode": "tozero"}
    return {
        "data": [
            _line("training", training, TRAINING),
            _line("held out", held_out, HELD_OUT, width=3),
        ],
        "layout": {
            "xaxis": axis
            if against == "tokens"
            else {**axis, "ticksuffix": "B", "exponentformat": "SI"},
            "yaxis": {"title": {"text": "bits per byte"}},
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
        {"type": "bar", "name": phase, "x": xs, "y": [short(m[phase]) for m in means],
         "marker": {"color": COLORS[phase]}, "hovertemplate": "%{y:.2f} s"}
        for phase in PHASES
        if any(m[phase] for m in means)
    ]  # fmt: skip
    slowest = [short(sum(map(_busiest, group)) / len(group)) for group in groups]
    data.append(
        {"type": "scatter", "mode": "markers" if len(xs) <= DOTS else "lines",
         "name": "slowest peer, without waiting", "x": xs, "y": slowest,
         "marker": {"color": SLOWEST, "size": 6}, "line": {"color": SLOWEST, "width": 1}, "hovertemplate": "%{y:.2f} s"}
    )  # fmt: skip
    return {
        "data": data,
        "layout": {
            "barmode": "stack",
            "bargap": 0.15 if len(xs) <= DOTS else 0,
            "legend": {"orientation": "h", "y": -0.2, "traceorder": "normal"},
            "hovermode": "x unified",
            "xaxis": {"title": {"text": "round"}, **_whole(xs)},
            "yaxis": {"title": {"text": "seconds"}, "rangemode": "tozero"},
        },
    }


def _busiest(one: Round) -> float:
    return max(sum(s for phase, s in t.items() if phase != "wait") for t in one.timings.values())


def peers_plot(told: History, tokens: int) -> Figure:
    """Tokens a second of every peer in every round; crosses where a contribution did not count."""
    known = {p for r in told.rounds for p in (*r.accepted, *r.rejected)}
    rows = range(max(known, default=-1) + 1)
    xs = [r.number for r in told.rounds]
    speeds = [[_speed(r, peer, tokens) for r in told.rounds] for peer in rows]
    refused = [(r.number, peer, reason) for r in told.rounds for peer, reason in r.rejected.items()]
    data: list[Figure] = [
        {"type": "heatmap", "x": xs, "y": list(rows), "z": speeds, "zmin": 0, "zmax": max((z for row in speeds for z in row if z), default=1.0), "colorscale": "Viridis",
         "xgap": 1 if len(xs) <= BARS else 0, "ygap": 1, "colorbar": {"title": {"text": "tokens/s"}},
         "hovertemplate": "round %{x}, peer %{y}: %{z:,.0f} tokens/s<extra></extra>"}
    ]  # fmt: skip
    if refused:
        data.append(
            {"type": "scatter", "mode": "markers", "x": [x for x, _, _ in refused],
             "y": [y for _, y, _ in refused], "text": [html.escape(why) for _, _, why in refused],
             "marker": {"symbol": "x", "size": 9, "color": SLOWEST, "line": {"color": "#fff", "width": 1}},
             "hovertemplate": "round %{x}, peer %{y}: %{text}<extra></extra>"}
        )  # fmt: skip
    return {
        "data": data,
        "layout": {
            "showlegend": False,
            "xaxis": {"title": {"text": "round"}, "showgrid": False, **_whole(xs)},
            "yaxis": {"title": {"text": "peer"}, "showgrid": False, **_whole(rows), "autorange": "reversed"},
        },
    }  # fmt: skip


def _speed(one: Round, peer: int, tokens: int) -> float | None:
    seconds = one.timings.get(peer, {}).get("train", 0.0)
    return short(tokens / seconds) if seconds else None


def _whole(numbers: Sequence[float]) -> Figure:
    """An axis of few whole numbers has a tick at each; plotly would put some between them."""
    return {"dtick": 1} if len(numbers) <= 20 else {}
