"""What the commands do with a family of runs in place of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import STOPPED, fail
from duckweed.cli.common.running import Tell, alone, founded, successors
from duckweed.learn.fit import ANY, Wish

if TYPE_CHECKING:
    from duckweed.family.begin import Family
    from duckweed.family.folder import FamilyFolder
    from duckweed.family.train import Story, Told
    from duckweed.learn.fit import Machine
    from duckweed.pages.family_page import Figures
    from duckweed.pages.live.served import Served
    from duckweed.pages.trackers import Tools
    from duckweed.process.forkserver import ForkServer
    from duckweed.process.serving import Way
    from duckweed.run.folder import Destination, RunFolder
    from duckweed.run.plugins import Plugin
    from duckweed.run.spec import RunSpec
    from duckweed.session import Session
    from duckweed.swarm.blobs.mirroring import Mirroring

console = PlainConsole()
PORTS = (1 << 16) - 1  # the highest port
MIX = "Of a family: mix the N likeliest paths; N times the work and memory."
Mix = Annotated[int, typer.Option(metavar="N", help=MIX)]


def only_of_families(mix: int) -> None:
    """End the command where a single model is to be mixed: it has nothing to be mixed with."""
    if mix != 1:
        fail("--mix goes with a family of paths, and this is a single model")


def check_ports(spec: RunSpec, first: int) -> None:
    """End the command where the coordinators of a family would listen at ports that there are not. first: port of that
    of the common start; 0: any."""
    from duckweed.run import family as rules

    paths = rules.paths_of(spec).count
    over = rules.port_of(first, paths) + 1 - PORTS
    if first and over > 0:
        fail(
            f"port {first} is too high for a family of {paths} paths: each has a port of its own above it, and the "
            f"last would be {PORTS + over}, where {PORTS} is the highest there is. Choose {first - over} or less"
        )


def begin(
    spec: RunSpec, place: Destination, machine: Machine, plugins: Sequence[Plugin], simulated: bool
) -> Family:
    """A new family; arguments as of `running.begin`."""

    def make(say: Tell, warn: Tell) -> Family:
        from duckweed.family import begin as families

        return families.found(
            spec, place, alone(machine) if simulated else machine, plugins, say, warn
        )

    return _told(founded("family", make))


def reopen(
    folder: FamilyFolder,
    device: str,
    threads: int,
    plugins: Sequence[Path],
    wish: Wish = ANY,
) -> Family:
    """A family that exists; arguments as of `running.reopen`."""
    with console.status("loading PyTorch"):
        from duckweed.family import begin as families

        family = families.reopen(folder, device, threads, plugins, wish)
    return _told(family)


def _told(family: Family) -> Family:
    """Says what was understood, before anything is trained."""
    from duckweed.family import begin as families
    from duckweed.merge import trunk
    from duckweed.round import founding
    from duckweed.run import family as rules
    from duckweed.run.units import show_count

    spec, first = family.spec, family.common
    paths, facts = rules.paths_of(spec), first.ground.dataset.manifest
    layout = founding.layout(first.folder)
    parameters, common = layout.total, trunk.size(paths, layout)
    together = f" ({common:,} in common)" if common else ""
    shares = families.shares(family)
    hands = rules.deal(spec.rounds.peers, paths.count)
    before, length = rules.common_rounds(spec), spec.model.sequence
    after = (spec.rounds.count - before) * spec.tokens_per_block
    passes = [len(hand) * after / (n * length) for hand, n in zip(hands, shares.train, strict=True)]
    turns = -(-paths.count // spec.rounds.peers)
    each = sorted({len(hand) for hand in hands})
    lines = {
        "family": f"{family.folder.path}: {paths.count} paths, {spec.rounds.peers} peers on {first.device}",
        "data": f"{', '.join(spec.data.paths)}: {facts.told()}",
        "model": f"{spec.model.source}: {parameters:,} parameters a path and a peer{together}, "
        f"{common + paths.count * (parameters - common):,} in all",
        "routing": f"by the first {paths.prefix} of {length} tokens; a path has {min(shares.train):,} to "
        f"{max(shares.train):,} of {sum(shares.train):,} sequences, read {min(passes):.2g} to {max(passes):.2g} "
        "times",
        "training": f"{before} of {spec.rounds.count} rounds in common, then {' or '.join(map(str, each))} "
        f"peer{'s' if each[-1] > 1 else ''} a path"
        + (f", {turns} turns" if turns > 1 else "")
        + f"; {show_count(before * spec.tokens_per_block * spec.rounds.peers + sum(map(len, hands)) * after)} tokens",
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    for what, words in lines.items():
        table.add_row(Text(what, "dim"), words)
    console.print(table)
    return family


def train(family: Family, forks: ForkServer | None, beside: Beside, port: int) -> None:
    """Train what is left, with processes; then measure and export. port: of the first coordinator; 0: any."""
    from duckweed.family import train as training

    _watched(family, lambda say: training.train(family, say, forks, port), beside)


def simulate(family: Family, links: str | None, step_seconds: float | None, beside: Beside) -> None:
    """The same in this process and in virtual time. links: as in --links, of the peers of the family."""
    from duckweed.family import train as training
    from duckweed.net.link_spec import parse_links

    each = parse_links(links, family.spec.rounds.peers) if links else None
    _watched(family, lambda say: training.simulate(family, say, each, step_seconds), beside)


def serve(
    family: Family, way: Way, train: int, page: str | None, samples: bool, beside: Beside
) -> None:
    """Coordinate what is left for peers on other machines; prints the invitation first. train: peers of this machine;
    page: HOST:PORT of the page of all runs, "" for where it was the last time, None: there is none; samples: whether
    the models write texts for it."""
    from duckweed import session
    from duckweed.family import harvest
    from duckweed.family import serve as serving
    from duckweed.pages.live.sections import Terms
    from duckweed.pages.live.served import served_together
    from duckweed.run.events import Serving
    from duckweed.swarm.protocol.invitation import Invitation

    first = family.common

    def begun(invitation: Invitation, at: Serving) -> None:
        is_open = first.spec.members.join == "open"
        who = "Anybody can take part" if is_open else "Whoever has this line can come"
        mirror = f" --mirror {beside.mirror}" if beside.mirror and "://" in beside.mirror else ""
        command = f"duckweed join {invitation}{mirror}"
        console.print(f"{who}, in the common start and in the paths:\n")
        console.print(f"{command}\n", soft_wrap=True)
        if is_open and beside.shown:
            terms = Terms(command, tuple(session.needs(first)))
            for shown in beside.shown.values():
                shown.invite(terms)
        port = at.bound[0].rpartition(":")[2]
        console.print(
            f"Others reach this machine at UDP and TCP port {port}, and each path at ports of its own"
            + (
                ": the ones after it, two for each."
                if way.listen
                else "; name one with --listen to choose them."
            ),
            style="dim",
        )
        if words := successors(first.spec):
            console.print(words, style="dim")

    def story(say: Tell) -> Story:
        return serving.serve(family, way, say, begun, lambda: harvest.finish(family, say), train)

    with ExitStack() as stack:
        if page is not None:
            place = family.folder
            names = [run.path.name for run in place.runs]
            pages = served_together(place.path, names, first.folder, page)
            beside.shown = stack.enter_context(pages)
            beside.samples = samples
            url = beside.shown[first.folder.path.name].url
            console.print(f"The runs of the family are shown at {url}", soft_wrap=True)
            if samples and not session.sampler(first, len(names)):
                console.print("There is too little memory to let the models write beside it.")
        _watched(family, story, beside, "duckweed serve")


class Beside:
    """Who is told of a family's runs beside the terminal: tools, mirrors and the page; of each run from its first
    event on. A context manager: on leaving it, all is written out."""

    def __init__(self, logs: Sequence[str], mirror: str | None) -> None:
        """logs: tools, as of --log; mirror: URL of a place that the common start is copied to, and the paths beside
        it."""
        self.logs, self.mirror = logs, mirror
        self.shown: Mapping[str, Served] = {}
        self.samples = False
        """Whether the models write texts for the page."""
        self._of: dict[str, tuple[Tools, Mirroring | None]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def take(self, told: Told) -> None:
        """Note an event. Raises TrackerError."""
        from duckweed.run.events import RoundClosed

        if told.run not in self._of:
            self._of[told.run] = self._begin(told.run, told.session)
        tools, mirror = self._of[told.run]
        tools.take(told.event)
        if mirror and isinstance(told.event, RoundClosed):
            mirror.news()
        if told.run in self.shown:
            self.shown[told.run].take(told.event)

    def _begin(self, name: str, run: Session) -> tuple[Tools, Mirroring | None]:
        from duckweed import session
        from duckweed.family.folder import COMMON
        from duckweed.pages.trackers import Tools
        from duckweed.swarm.blobs.mirroring import mirrored
        from duckweed.swarm.protocol.offers import mirror_of

        url = self.mirror
        if url and name != COMMON:
            url = mirror_of(url, name)
        if self.samples and (sampler := session.sampler(run, len(self.shown))):
            self.shown[name].let_write(sampler)
        tools = self._stack.enter_context(Tools(run.folder, self.logs))
        say = lambda text: console.print(f"{name}: {text}", soft_wrap=True)  # noqa: E731
        return tools, self._stack.enter_context(mirrored(run.folder, url, say))


def _watched(
    family: Family,
    story: Callable[[Tell], Story],
    beside: Beside,
    again: str = "duckweed train --resume",
) -> None:
    """Show what happens until it ends. again: the command that goes on, without the folder."""

    from duckweed.cli.views.family import FamilyView
    from duckweed.family import harvest
    from duckweed.family import train as training
    from duckweed.round.export import bytes_per_token

    try:
        if not training.trained(family):
            with (
                beside,
                FamilyView(console, family.folder.path.name) as view,
                closing(story(view.say)) as told,
            ):
                for one in told:
                    run, of, event = one
                    rounds = of.spec.schedule.rounds
                    view.take(run, event, rounds, bytes_per_token(of.ground.dataset))
                    beside.take(one)
        if not training.trained(family):
            _stopped(family, again)
        figures = harvest.read(family.folder)
        if figures is None:
            with console.status("measuring and exporting") as status:
                figures = harvest.finish(family, status.update)
    except KeyboardInterrupt:
        _stopped(family, again)
    show_figures(family.folder, figures)


def _stopped(family: Family, again: str) -> NoReturn:
    console.print(
        f"\nStopped; nothing of the rounds that are closed is lost. Go on with: {again} {family.folder.path}",
        soft_wrap=True,
    )
    raise typer.Exit(STOPPED)


def show_figures(folder: FamilyFolder, figures: Figures) -> None:
    """What came of a family that is finished."""
    from duckweed.cli.views.family import figures_table

    console.print(figures_table(figures))
    console.print(
        f"\nreport   {folder.report}\n"
        f"models   {folder.path}/path-N/model, routed by {folder.router}\n"
        f"try it   duckweed generate {folder.path} --prompt 'def '",
        soft_wrap=True,
    )


def show(folder: FamilyFolder) -> None:
    """`duckweed show`: the paths, and how far each run is."""
    from duckweed.family import harvest
    from duckweed.run import spec as specs

    figures = harvest.read(folder)
    if figures is not None:
        show_figures(folder, figures)
        return
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("run", "rounds", "peers"):
        table.add_column(name)
    for run in folder.runs:
        if not run.founded:
            table.add_row(run.path.name, "not begun: the common start comes first", "")
            continue
        own = specs.load(run.spec)
        done = _closed(run)
        table.add_row(run.path.name, f"{done} of {own.schedule.rounds}", str(own.rounds.peers))
    console.print(table)
    console.print(f"\nGo on with: duckweed train --resume {folder.path}", soft_wrap=True)


def _closed(run: RunFolder) -> int:
    from duckweed.ledger.ledger import Ledger

    with closing(Ledger(run.ledger)) as ledger:
        return ledger.closed_rounds()
