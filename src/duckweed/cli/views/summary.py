"""The end of `duckweed train`: what came of the run, the verdict first, readable in ten seconds."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from duckweed.pages.run_summary import DATA_PARALLEL, Summary, fewer
from duckweed.round.run_log import PURPOSES
from duckweed.run.units import show_size, show_time


def render_terminal(summary: Summary) -> RenderableType:
    """The summary as lines and one table; no frame, so that text and paths can be copied."""
    parts: list[RenderableType] = [Text(), _verdict(summary), _facts(summary), Text()]
    parts += [_traffic(summary), _comparison(summary)]
    if summary.sample:
        parts += [Text("\nthe model writes", "dim"), Text(summary.sample.strip())]
    parts += [Text(), _files(summary)]
    return Group(*parts)


def _verdict(summary: Summary) -> Text:
    start, end = summary.held_out_start, summary.held_out_end
    if start is None or end is None:
        return Text(
            "Trained; the loss on held-out text was not measured before and after.", "bold yellow"
        )
    figures = f"{start:.3f} → {end:.3f} {summary.unit('held-out')}"
    if end >= start:
        return Text(f"It did not learn: {figures}", "bold red")
    better = f"   ({1 - end / start:.0%} fewer)"
    return Text.assemble(("It learned: " + figures, "bold green"), (better, "dim"))


def _facts(summary: Summary) -> Text:
    clock = "simulated time" if summary.simulated else "training"
    rate = summary.tokens_per_second
    pace = f" ({rate:,.0f} a second)" if rate else ""
    written = f"answers in the last rounds: {summary.written}\n" if summary.written else ""
    refused = f", {summary.rejected} did not count" if summary.rejected else ""
    # Of the phases only what a person can act on: how much of the time was work.
    shares = summary.utilisation.values()
    busy = f"; a peer computed {sum(shares) / len(shares):.0%} of the time" if shares else ""
    return Text(
        f"{summary.peers} {'peer' if summary.peers == 1 else 'peers'}, "
        f"{summary.rounds} of {summary.planned} rounds, "
        f"{summary.parameters:,} parameters\n"
        f"{summary.tokens:,} tokens in {show_time(summary.seconds)} {clock}{pace}{busy}\n"
        f"{written}{summary.contributions} contributions counted{refused}"
    )


def _traffic(summary: Summary) -> RenderableType:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("bytes on the wire")
    for name in ("up", "down"):
        table.add_column(name, justify="right")
    for purpose in PURPOSES:
        moved = summary.traffic[purpose]
        table.add_row(purpose, *(show_size(way) if way else "-" for way in (moved.up, moved.down)))
    table.add_row(
        "together", show_size(summary.total.up), show_size(summary.total.down), style="bold"
    )
    table.add_row("each peer", show_size(summary.up_per_peer), show_size(summary.down_per_peer))
    if summary.data_parallel:
        each = show_size(summary.data_parallel)
        table.add_row("data-parallel training", each, each, style="dim")
    return table


def _comparison(summary: Summary) -> Text:
    up, down = summary.saving_up, summary.saving_down
    if up is None or down is None:
        return Text("One peer at a time: data-parallel training would move nothing.", "dim")
    return Text.assemble(
        (f"{fewer(up)} bytes up, {fewer(down)} down", "bold"),
        " than data-parallel training of the same tokens\n",
        (f"({DATA_PARALLEL}: ring all-reduce of bf16 gradients)", "dim"),
    )


def _files(summary: Summary) -> Text:
    return Text(
        f"report   {summary.folder}/report.html\n"
        f"model    {summary.folder}/model\n"
        f"try it   {summary.tried}\n"
        f"ledger   duckweed show {summary.folder}"
    )
