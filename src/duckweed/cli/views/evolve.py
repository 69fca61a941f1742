"""The live view of a campaign, and its ledger as tables."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from duckweed.evolve.budget import Budget
    from duckweed.evolve.campaign.history import Decision, History
    from duckweed.evolve.campaign.loop import RunsStarted
    from duckweed.evolve.campaign.outcome import CampaignOutcome
    from duckweed.evolve.folder import CampaignFolder
    from duckweed.evolve.trial_spec import Recipe, TrialResult
    from duckweed.ledger.entries import Body

COLOURS = {"adopted": "green", "accepted": "cyan", "rejected": "red", "undecided": "yellow"}
SHOWN = 8  # decisions in the live view
COMMON = r"^(inner|architecture|model)\."  # sections that every trial has
REASONS = 3  # of refusals, at most
PAUSE = 5.0  # seconds between looks at the ledger while nothing is decided


class EvolveView:
    """Takes the loop's events; on a terminal a live panel, elsewhere lines."""

    def __init__(
        self, console: Console, folder: CampaignFolder, budget: Budget, workers: int
    ) -> None:
        self.console, self.folder, self.budget, self.workers = console, folder, budget, workers
        self._history: History | None = None
        self._read = 0.0  # when the ledger was last read
        self._ran = self._of = 0  # runs of what is being done
        self._doing = "starting the workers"
        self._begun = time.monotonic()
        self._before = 0.0
        self._refresh()
        self._live = Live(
            console=console, refresh_per_second=2, transient=True, get_renderable=self._render
        )

    def __enter__(self) -> EvolveView:
        if self._history:
            self._before = self._history.seconds / self.workers
        if self.console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(self, *found: Any) -> None:
        if self.console.is_terminal:
            self._live.__exit__(*found)

    def take(self, event: Body | RunsStarted) -> None:
        """Show what happens."""
        from duckweed.evolve.campaign.loop import RunsStarted
        from duckweed.evolve.entries import ProposalsEntry, TrialEntry

        if isinstance(event, RunsStarted):
            self._ran, self._of = 0, event.count
            self._doing = f"{event.purpose}: 0 of {self._of} runs done"
        elif isinstance(event, TrialEntry):
            self._ran += 1
            last = _result(event.result)
            self._doing = f"{event.purpose}: {self._ran} of {self._of} runs done; the last: {last}"
            if time.monotonic() > self._read + PAUSE:
                self._refresh()
        elif not isinstance(event, ProposalsEntry):
            self._refresh()
        if self.console.is_terminal:
            self._live.refresh()
        elif not isinstance(event, RunsStarted):
            for line in _lines(event, self._history):
                self.console.print(line)

    def _refresh(self) -> None:
        """The history as the ledger has it now."""
        from duckweed.evolve.campaign.history import read
        from duckweed.ledger.ledger import Ledger

        ledger = Ledger(self.folder.ledger)
        self._history = read(ledger)
        ledger.close()
        self._read = time.monotonic()

    def _render(self) -> RenderableType:
        assert self._history
        parts: list[RenderableType] = [self._head(), Text(self._doing, "dim"), Text()]
        parts += [decisions(self._history.decisions[-SHOWN:])]
        title = Text.assemble(("duckweed evolve", "bold"), f" {self.folder.path.name}")
        return Panel(Group(*parts), title=title, border_style="green", padding=(0, 1))

    def _head(self) -> RenderableType:
        from duckweed.evolve.budget import span

        assert self._history
        spent = self._before + time.monotonic() - self._begun
        share = spent / self.budget.seconds if self.budget.seconds else 0.0
        if self.budget.flops:
            share = self._history.spent / self.budget.flops
        grid = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=1.0, completed=min(1.0, share), width=40)
        grid.add_row(Text(f"{span(spent)} of {self.budget.text}"), bar)
        runs = sum(run.count for run in self._history.runs.values())
        best = Text(f"{headline(self._history)}   {runs} runs, {self._history.spent:.2g} FLOP")
        return Group(grid, best)


def headline(history: History) -> str:
    """The best so far in one line."""
    best = history.best()
    if best is None or best.comparison is None:
        return "generation 0" if history.tuning else "tuning generation 0"
    r, caution = best.comparison.reported, best.comparison.caution
    text = f"generation {best.number}: {r.m:.2f}x ({r.interval}) over generation 0"
    return f"{text}; {caution}" if caution else text


def _result(result: TrialResult) -> str:
    if result.loss is None:
        return result.reason
    return f"{result.loss:.4f} bits/byte in {result.seconds:.1f} s"


def _lines(entry: Body, history: History | None) -> list[str]:
    """An entry in words, for a console that is no terminal."""
    from duckweed.evolve import entries as e

    match entry:
        case e.TuningEntry(zero=zero):
            return [f"generation 0 tuned: {difference(zero)}"]
        case e.PilotEntry():
            return [
                f"A/A pilot: sd {entry.sd:.4f} bits/byte over {entry.pairs} pairs; the smallest "
                f"effect found in 8 of 10 cases: {entry.smallest_multiplier:.2f}x"
            ]
        case e.ScreeningEntry(winner=found):
            what = "nothing better" if found is None else f"proposal {found} goes on"
            return [f"screening {entry.wave}: {len(entry.screened)} screened, {what}"]
        case e.DecisionEntry() if history:
            d = history.decisions[-1]
            return [f"proposal {d.number} {difference(d.difference)}: {d.outcome}: {d.why}"]
        case e.ScaleEntry():
            return [f"proposal {entry.number} at {entry.size}x the size: {entry.verdict}"]
        case e.VaultEntry(fault=fault) if history:
            return [fault or headline(history)]
        case e.PruningEntry(taken_back=removed):
            return [f"leave-one-out: {removed + ' taken back' if removed else 'everything stays'}"]
        case e.FailureEntry(reason=reason):
            return [reason]
        case e.GuestEntry(key=key, reason=reason):
            return [f"remote worker {key[:8]} {reason}"]
    return []


def difference(recipe: Recipe) -> str:
    """A difference in one line, without the names of the sections that every trial has: those of an
    exchange have keys of the same names."""
    parts = [f"{re.sub(COMMON, '', key)}={value}" for key, value in recipe.items()]
    return ", ".join(parts) or "the parent itself"


def _table(*names: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in names:
        table.add_column(name, justify="right" if name in right else "left")
    return table


def decisions(found: list[Decision]) -> Table:
    """Proposals that went into confirmation."""
    names = ("no", "by", "difference", "pairs", "bits/byte better (95 %)", "decision", "why")
    table = _table(*names, right=("no", "pairs"))
    for d in found:
        who = d.proposer if d.kind in (None, "real") else f"planted {d.kind}"
        table.add_row(
            str(d.number), who, difference(d.difference), str(d.pairs or ""),
            d.gain_text, Text(d.outcome, COLOURS.get(d.outcome, "")), d.why,
        )  # fmt: skip
    return table


def ledger_tables(history: History) -> list[RenderableType]:
    """A whole ledger."""
    from duckweed.evolve.budget import span

    parts: list[RenderableType] = []
    runs = _table("purpose", "runs", "FLOP", "time", right=("runs", "FLOP", "time"))
    for purpose, run in history.runs.items():
        runs.add_row(purpose, str(run.count), f"{run.flops:.2e}", span(run.seconds))
    parts += [runs, Text()]
    if history.tuning:
        parts.append(Text(f"generation 0: {difference(history.tuning.zero)}"))
    if history.pilot:
        parts.append(Text(history.power))
    parts += [Text(), decisions(history.decisions), *refusals(history), Text()]
    lineage = _table("generation", "adopted", "by", "at size", "over generation 0 (95 %)")
    for g in history.generations:
        what, who = g.change(difference(g.difference)), f"{g.proposer}, {g.provenance}"
        lineage.add_row(str(g.number), what, who, g.scale, g.over_zero)
    parts += [lineage, Text()]
    words = {"same": "the parent itself", "null": "nulls", "harmful": "harmful changes"}
    for kind, found in history.planted().items():
        parts.append(Text(f"planted, {words[kind]}: {found.accepted} of {found.decided} accepted"))
    parts += [Text(f"remote worker {k[:8]} {reason}") for k, reason in history.remotes.items()]
    if history.audits:
        agreed = history.audits - history.disagreed
        parts.append(
            Text(
                f"runs of remote workers run again here: {history.audits}, of which {agreed} agree"
            )
        )
    return parts


def refusals(history: History) -> list[RenderableType]:
    """Why proposals were refused before anything was run, the commonest reasons first."""
    if not history.refused:
        return []
    reasons = Counter(refusal.reason for refusal in history.refused).most_common(REASONS)
    lines = [f"  {count} x {reason}" for reason, count in reasons]
    said = f"{len(history.refused)} proposals refused before anything was run, most often:"
    return [Text(), Text("\n".join([said, *lines]))]


def verdict(outcome: CampaignOutcome) -> Group:
    """What a campaign found, in a few lines."""
    history, found = outcome.history, outcome.returns
    lines = [headline(history)]
    if history.pilot:
        ended = [d for d in history.decisions if d.outcome != "open"]
        adopted = sum(d.outcome == "adopted" for d in ended)
        lines.append(f"{len(ended)} proposals confirmed or not, {adopted} adopted")
    r = found.r
    hedge = " (mostly the prior: too few accepted changes to say)" if found.mostly_prior else ""
    lines.append(f"returns to research r = {r.middle:.2f} ({r.low:.2f} to {r.high:.2f}){hedge}")
    return Group(*(Text(line) for line in lines))
