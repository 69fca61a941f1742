"""`duckweed train` and `duckweed new`."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from duckweed.cli.common import running, specified
from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import fail, plain_errors

console = PlainConsole()


def register(app: typer.Typer) -> None:
    app.command()(train)
    app.command()(new)


@plain_errors
def new(
    path: Annotated[Path, typer.Argument(help="Where to write the specification.")] = Path(
        "run.toml"
    ),
) -> None:
    """Write a commented run specification to start from."""
    from duckweed.run import defaults, toml

    if path.exists():
        fail(f"{path} exists already; nothing was changed. Choose another name.")
    path.write_text(toml.write(defaults.start({}), notes=True), encoding="utf-8")
    console.print(f"Wrote {path}. Edit it, then: duckweed train {path}")


@plain_errors
def train(
    specification: Annotated[
        Path | None, typer.Argument(help="A run specification (TOML). Without: the defaults.")
    ] = None,
    data: specified.Data = None,
    field: specified.Field = None,
    encoding: specified.Encoding = None,
    limit: specified.Limit = None,
    model: specified.Model = None,
    tokenizer: specified.Tokenizer = None,
    peers: specified.Peers = None,
    rounds: specified.Rounds = None,
    saving: specified.Saving = None,
    seed: specified.Seed = None,
    set_: specified.Set = None,
    recipe: specified.Recipe = None,
    name: Annotated[str | None, typer.Option(help="Name of the run: folder runs/NAME.")] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run from its last closed round.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of each peer.")] = 1,
    micro: Annotated[str, typer.Option(metavar="auto|N", help=running.MICRO)] = "auto",
    compile_: Annotated[bool, typer.Option("--compile", help=running.COMPILE)] = False,
    port: Annotated[
        int,
        typer.Option(
            help="UDP port of the coordinator; 0: any. Of a family: that of the common start, path k has the port "
            "2 (k + 1) above it.",
            min=0,
            max=65535,
        ),
    ] = 0,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="One process and a virtual clock: same result.")
    ] = False,
    links: Annotated[
        str | None, typer.Option(help="With --simulate: 'UP/DOWN RTTms' in Mbit/s: '10/50 80ms'.")
    ] = None,
    step_seconds: Annotated[
        float | None, typer.Option(help="With --simulate: seconds of one inner step.")
    ] = None,
    plugin: running.Plugins = None,
    log: running.Logs = None,
    mirror: running.MirrorUrl = None,
) -> None:
    """Train a model with several peers on this machine, over the same transport as the internet.

    Without arguments: four peers train a small model on Python's own sources for some minutes.
    """
    from msgspec import UNSET

    from duckweed.cli.common import families
    from duckweed.family import folder as family_folders
    from duckweed.learn.fit import Machine, Wish, read_micro
    from duckweed.net.link_spec import parse_links
    from duckweed.pages import trackers
    from duckweed.process import environment
    from duckweed.process.forkserver import ForkServer
    from duckweed.run import folder as folders
    from duckweed.run import plugins

    wish = Wish(read_micro(micro), compile=compile_)
    trackers.check(log or [])
    running.check_mirror(mirror)
    if resume is not None and specification is not None:
        fail("give either a specification or --resume, not both: a run keeps its specification")
    if (links or step_seconds is not None) and not simulate:
        fail("--links and --step-seconds go with --simulate")
    wanted = specified.changes(
        data, field, encoding, limit, model, tokenizer, peers, rounds, seed, set_, saving
    )
    folder = found = family = None
    if resume is not None:
        specified.refuse_with_run(wanted, recipe)
        if found := family_folders.find(resume):
            families.check_ports(found.read_spec(), port)
        folder = None if found else folders.find(resume)
    else:
        loaded = plugins.load(plugin or ())
        spec, base = specified.specification(specification, recipe, wanted)
        if spec.paths is not UNSET:
            families.check_ports(spec, port)
        if links:  # before a folder is made for the run
            parse_links(links, spec.rounds.peers)
    with contextlib.ExitStack() as stack:
        forks = None
        if not simulate and device in ("auto", "cpu"):  # it loads while the run is founded
            forks = stack.enter_context(ForkServer(environment.of_child(threads)))
        if not folder and not found:
            name = name or folders.next_name(runs, specification.stem if specification else "train")
            place = folders.Destination(base, runs, name)
            machine = Machine(device, threads, spec.rounds.peers, wish)
        if found:
            family = families.reopen(found, device, threads, plugin or (), wish)
        elif not folder and spec.paths is not UNSET:
            family = families.begin(spec, place, machine, loaded, simulate)
        if family:
            beside = families.Beside(log or [], mirror)
            if simulate:
                families.simulate(family, links, step_seconds, beside)
            else:
                families.train(family, forks, beside, port)
            return
        if folder:
            run = running.reopen(folder, device, threads, plugin or (), wish, simulated=simulate)
        else:
            run = running.begin(spec, place, machine, loaded, simulate)
        from duckweed import session

        stack.enter_context(running.stoppable(run, "duckweed train --resume"))
        if running.trained(run):
            pass
        elif simulate:
            at_links = parse_links(links, run.spec.rounds.peers) if links else None
            running.watch(run, session.simulate(run, at_links, step_seconds), log or (), mirror)
        else:
            running.watch(run, session.train(run, port, forks), log or (), mirror)
        running.finish(run)
