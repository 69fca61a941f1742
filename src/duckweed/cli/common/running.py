"""What the commands that train have in common: open a run, watch it, bring in the harvest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import msgspec
import typer

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import STOPPED
from duckweed.learn.fit import ANY, Wish

if TYPE_CHECKING:
    from rich.console import RenderableType

    from duckweed.cli.views.live import View
    from duckweed.learn.fit import Machine
    from duckweed.run.folder import Destination, RunFolder
    from duckweed.run.plugins import Plugin
    from duckweed.run.spec import RunSpec
    from duckweed.session import Events, Session

console = PlainConsole()
Tell = Callable[[str], None]
T = TypeVar("T")


Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="A Python file of your own that registers a wire, a merge rule, an inner optimizer or a "
        "learner. Its code runs on this machine. Repeatable.",
    ),
]


Logs = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        metavar="TOOL",
        help="Also write what happens for this tool: tensorboard, into RUN/tensorboard; wandb. Repeatable.",
    ),
]


MirrorUrl = Annotated[
    str | None,
    typer.Option(
        "--mirror",
        metavar="URL",
        help="Keep a copy of ledger, states and blobs there, for everybody to read: a folder, s3://BUCKET/RUN, "
        "or any other URL that fsspec knows.",
    ),
]


def begin(
    spec: RunSpec,
    place: Destination,
    machine: Machine,
    plugins: Sequence[Plugin] = (),
    simulated: bool = False,
) -> Session:
    """A new run. simulated: whether one process does the work of all peers."""

    def make(say: Tell, warn: Tell) -> Session:
        from duckweed import session

        return session.found(
            spec, place, alone(machine) if simulated else machine, plugins, say, warn
        )

    return _told(founded("run", make), machine.peers, simulated)


def alone(machine: Machine) -> Machine:
    """The machine with one peer on it."""
    return msgspec.structs.replace(machine, peers=1)


def founded(what: str, make: Callable[[Tell, Tell], T]) -> T:
    """What is made, with its warnings printed behind it. make: given what says what is being done, and what
    takes a warning; what: "run" or "family"."""
    said: list[str] = []
    try:
        with console.status("loading PyTorch") as status:
            made = make(status.update, said.append)
    except KeyboardInterrupt:
        console.print(f"Stopped before the {what} had begun; nothing is left of it.")
        raise typer.Exit(STOPPED) from None
    for text in said:
        console.print(text, style="yellow")
    return made


def reopen(
    folder: RunFolder,
    device: str,
    threads: int,
    plugins: Sequence[Path],
    wish: Wish = ANY,
    peers: int | None = None,
    simulated: bool = False,
) -> Session:
    """A run that exists. wish: what is asked of each peer; peers, simulated: as of `begin`, None: all peers are on this
    machine. Raises FolderError if it never began."""
    with console.status("loading PyTorch"):
        from duckweed import session

        run = session.reopen(folder, device, threads, plugins, wish)
    return _told(run, run.spec.rounds.peers if peers is None else peers, simulated)


def _told(run: Session, peers: int, simulated: bool) -> Session:
    """Says what was understood, before anything is trained."""
    console.print(understood(run, peers, simulated))
    return run


def understood(run: Session, peers: int, simulated: bool) -> RenderableType:
    """What will be trained, on what, and for how long; one line of each, wrapped where it is too long."""
    from rich.table import Table
    from rich.text import Text

    from duckweed.round import founding
    from duckweed.run.units import show_count, show_size

    spec, facts = run.spec, run.ground.dataset.manifest
    parameters, rounds = founding.layout(run.folder).total, spec.rounds
    family = founding.configuration(spec, run.ground).model_type
    tokens = spec.total_steps * spec.tokens_per_step * rounds.peers
    many = f"{rounds.peers} peer{'' if rounds.peers == 1 else 's'}"
    lines = {
        "run": f"{run.folder.path}: {many} on {run.device}, {_rounds(spec)}",
        "data": f"{', '.join(spec.data.paths)}: {facts.told()}",
        "": f"{show_size(facts.train_bytes)} to train on, {show_size(facts.held_out_bytes)} held out; "
        f"blake3 {facts.hash[:16]}",
        "tokenizer": f"{spec.data.tokenizer}, {facts.vocabulary:,} tokens",
        "model": f"{spec.model.source} ({family}), {parameters:,} parameters, "
        + ("with given weights" if spec.model.weights == "given" else "from scratch"),
        "memory": _memory(run),
        "exchange": _exchange(spec, parameters),
        "training": f"{show_count(tokens)} tokens, {tokens / parameters:.3g} a parameter; {_time(run, peers, simulated)}",
    }
    table = Table.grid(padding=(0, 2, 0, 0))
    for what, words in lines.items():
        table.add_row(Text(what, "dim"), words)
    return table


def _rounds(spec: RunSpec) -> str:
    """How many rounds there are, and how long they are."""
    rounds = spec.schedule
    fewest, most = rounds.fewest, rounds.most
    many = f"{rounds.rounds} round{'' if rounds.rounds == 1 else 's'}"
    return f"{many} of {fewest} steps" if fewest == most else f"{many} of {fewest} or {most} steps"


def _exchange(spec: RunSpec, parameters: int) -> str:
    """What a peer will send, as far as that is known before the run."""
    from duckweed.round.run_log import data_parallel_bytes
    from duckweed.run.units import show_size
    from duckweed.wire.codec import codec_type

    bits, peers = codec_type(spec.wire).expected_bits(spec.wire), spec.rounds.peers
    if bits is None:
        return "how much each peer sends shows after the first round"
    up = bits * parameters / 8 * spec.schedule.rounds
    plain = data_parallel_bytes(parameters, peers, spec.total_steps) / peers
    beside = f", {plain / up:,.0f} times fewer than data parallelism" if plain > up else ""
    return f"each peer sends about {show_size(up)} in all{beside}"


def _memory(run: Session) -> str:
    """What a peer will take at its peak, as far as that can be predicted."""
    from duckweed import session
    from duckweed.run.units import show_size

    way, need, there = session.peak(run)
    return f"about {show_size(need)} for each peer, {way}; {show_size(there)} are there for each"


def _time(run: Session, peers: int, simulated: bool) -> str:
    """How long what is left will take: by the rounds of this run so far, or by the inner steps that were
    done at its founding. Nothing is said that would be a guess."""
    from statistics import median

    from duckweed import session
    from duckweed.run.events import RoundClosed
    from duckweed.run.units import show_time

    closed = session.closed_rounds(run.folder)
    left = run.spec.schedule.rounds - closed
    rounds = run.spec.schedule
    took = [
        event.seconds / rounds.steps_of(event.round) for event in run.folder.records(RoundClosed)
    ]
    if not left:
        return "all rounds are done"
    if simulated or not took:
        alone = session.round_seconds(run, peers, simulated)
        if alone is None:
            step = run.folder.local().get("step_seconds")
            here = f"one step takes {show_time(step)} here; " if step else ""
            return f"{here}how long it takes shows after the first round"
        return f"about {show_time(left * alone)}" + (f" for {left} rounds" if closed else "")
    more = median(took) * (rounds.begins(rounds.rounds) - rounds.begins(closed))
    return f"{closed} rounds are done, about {show_time(more)} are left"


def view(run: Session) -> View:
    """The live view of the run."""
    from duckweed.cli.views.live import View
    from duckweed.round.export import bytes_per_token

    return View(console, run.folder.path.name, run.spec, bytes_per_token(run.ground.dataset))


def watch(
    run: Session, events: Events, logs: Sequence[str] = (), mirror: str | None = None
) -> None:
    """Show what happens until it ends; at Ctrl-C what is going on ends in order. logs: tools that it is
    written for (duckweed.pages.trackers); mirror: URL of a place that it is copied to."""
    from duckweed.pages.trackers import tracked
    from duckweed.run.events import RoundClosed
    from duckweed.swarm.blobs.mirroring import mirrored

    with (
        mirrored(run.folder, mirror, lambda text: console.print(text, soft_wrap=True)) as copied,
        closing(tracked(run.folder, list(logs), events)) as told,
        view(run) as shown,
    ):
        for event in told:
            shown.take(event)
            if copied and isinstance(event, RoundClosed):
                copied.news()


def check_mirror(url: str | None) -> None:
    """Raises MirrorError for a URL that cannot be used, before a run is made for it."""
    if url:
        from duckweed.swarm.blobs.mirror import Mirror

        Mirror(url)


def successors(spec: RunSpec) -> str:
    """What the organiser should know where successors are named; "" where none are."""
    names = [name for _, name in spec.members.heirs]
    if not names:
        return ""
    return (
        f"The machines of {', '.join(names)} keep the ledger too. A round counts when "
        f"{(len(names) + 1) // 2 + 1} of {len(names) + 1} have it, this machine included: until so many "
        f"are here, the run waits. If this machine is away for {spec.members.absence:.0f} s, one of "
        "them goes on."
    )


MICRO = (
    "Sequences of a step that are trained at a time, or auto: as many as fit into memory. The result is "
    "the same up to rounding."
)
COMPILE = (
    "Compile the layers (torch.compile) before training, and say how much faster that is. Half a minute or more the "
    "first time; it needs a C++ compiler. The result is the same up to rounding."
)


@contextmanager
def stoppable(run: Session, again: str) -> Iterator[None]:
    """Training and what follows it: when Ctrl-C ends that, say how to go on; exit code 130. again: the
    command that goes on, without the folder."""
    try:
        yield
    except KeyboardInterrupt:
        _stopped(run, again)
    if not trained(run):
        _stopped(run, again)


def _stopped(run: Session, again: str) -> NoReturn:
    from duckweed import session

    what = (
        "Stopped before model and report were written; the training is done. Write them with"
        if trained(run)
        else f"Stopped after {session.closed_rounds(run.folder)} closed rounds; nothing of them is lost. "
        "Go on with"
    )
    console.print(f"\n{what}: {again} {run.folder.path}", soft_wrap=True)
    raise typer.Exit(STOPPED)


def finish(run: Session) -> None:
    """After the last round: measure, export, report, where that is not done."""
    folder = run.folder
    if not trained(run):
        return
    if finished(run):
        console.print(
            "This run is finished: all rounds are done, the model and the report are written.\n"
            f"report   {folder.report}\n"
            f"model    {folder.model}",
            soft_wrap=True,
        )
    else:
        console.print(_harvest(run))


def trained(run: Session) -> bool:
    """Whether all rounds are closed, and the peers have agreed on the last state."""
    from duckweed import session

    return session.trained(run)


def finished(run: Session) -> bool:
    """Whether model and report are written."""
    return run.folder.report.is_file() and (run.folder.model / "config.json").is_file()


def _harvest(run: Session) -> RenderableType:
    """Write the model and, last, the report; returns the end of what the command prints."""
    from duckweed import session
    from duckweed.cli.views.summary import render_terminal

    with console.status("measuring and exporting the model"):
        summary = session.finish(run)
    return render_terminal(summary)
