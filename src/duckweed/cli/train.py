"""`duckweed train` and `duckweed new`."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from duckweed.cli import running
from duckweed.cli.console import PlainConsole
from duckweed.cli.errors import fail, plain_errors

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
    from duckweed.run import toml
    from duckweed.run.spec import RunSpec

    if path.exists():
        fail(f"{path} exists already; nothing was changed. Choose another name.")
    path.write_text(toml.write(RunSpec(), notes=True), encoding="utf-8")
    console.print(f"Wrote {path}. Edit it, then: duckweed train {path}")


@plain_errors
def train(
    specification: Annotated[
        Path | None, typer.Argument(help="A run specification (TOML). Without: the defaults.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Text: files, folders, globs, hf:NAME[:config], or 'stdlib'. Repeatable."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Preset, folder, config.json or hub name.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="bytes, bpe:N, or a tokenizer.")] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            help="Of text without a byte-order mark: cp1252, utf-16-le ... Default: utf-8."
        ),
    ] = None,
    peers: Annotated[int | None, typer.Option(help="How many peers.")] = None,
    rounds: Annotated[int | None, typer.Option(help="How many rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random follows from it.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any key of the specification, such as inner.steps=30."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="How to train (TOML), as `evolve` leaves it: laid over the specification."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run: folder runs/NAME.")] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run from its last closed round.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of each peer.")] = 1,
    micro: Annotated[str, typer.Option(metavar="auto|N", help=running.MICRO)] = "auto",
    port: Annotated[int, typer.Option(help="UDP port of the coordinator; 0: any.")] = 0,
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
) -> None:
    """Train a model with several peers on this machine, over the same transport as the internet.

    Without arguments: four peers train a small model on Python's own sources for some minutes.
    """
    from duckweed.net.link_spec import parse_links
    from duckweed.pages import trackers
    from duckweed.run import folder as folders
    from duckweed.run import plugins
    from duckweed.run import recipe as recipes
    from duckweed.run import spec as specs

    trackers.check(log or [])
    if resume is not None and specification is not None:
        fail("give either a specification or --resume, not both: a run keeps its specification")
    if (links or step_seconds is not None) and not simulate:
        fail("--links and --step-seconds go with --simulate")
    changes = _changes(data, model, tokenizer, encoding, peers, rounds, seed, set_)
    if resume is not None:
        if recipe is not None:
            fail("a run keeps its specification: --recipe does not go with --resume")
        if changes:
            fail(f"a run keeps its specification: {', '.join(changes)} cannot change on --resume")
        run = running.reopen(folders.find(resume), device, threads, plugin or (), micro)
    else:
        loaded = plugins.load(plugin or ())
        spec = specs.load(specification) if specification else specs.RunSpec()
        spec = specs.override(recipes.lay(spec, recipe) if recipe else spec, changes)
        if not _names_tokenizer(specification, changes):
            spec = specs.with_own_tokenizer(spec, _base(specification, data))
        if links:  # before a folder is made for the run
            parse_links(links, spec.rounds.peers)
        base = _base(specification, data)
        name = name or folders.next_name(runs, specification.stem if specification else "train")
        here = 1 if simulate else spec.rounds.peers
        run = running.begin(spec, base, runs, name, device, threads, here, loaded, micro)
    from duckweed import session

    with running.stoppable(run, "duckweed train --resume"):
        if running.trained(run):
            pass
        elif simulate:
            at_links = parse_links(links, run.spec.rounds.peers) if links else None
            running.watch(run, session.simulate(run, at_links, step_seconds), log or ())
        else:
            running.watch(run, session.train(run, port), log or ())
        running.finish(run)


def _base(specification: Path | None, data: list[str] | None) -> Path:
    """The folder that relative paths start from."""
    return specification.resolve().parent if specification and not data else Path.cwd()


def _names_tokenizer(specification: Path | None, changes: dict[str, Any]) -> bool:
    """Whether the user has said which tokenizer to take."""
    said = tomllib.loads(specification.read_text("utf-8")) if specification else {}
    return "data.tokenizer" in changes or "tokenizer" in said.get("data", {})


def _changes(
    data: list[str] | None,
    model: str | None,
    tokenizer: str | None,
    encoding: str | None,
    peers: int | None,
    rounds: int | None,
    seed: int | None,
    assignments: list[str] | None,
) -> dict[str, Any]:
    """Options as dotted keys of the specification."""
    given: dict[str, Any] = {
        "data.path": (data[0] if len(data) == 1 else data) if data else None,
        "model.source": model,
        "data.tokenizer": tokenizer,
        "data.encoding": encoding,
        "rounds.peers": peers,
        "rounds.count": rounds,
        "seed": seed,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    for text in assignments or []:
        key, equals, value = text.partition("=")
        if not equals:
            fail(f"--set {text}: expected KEY=VALUE, such as inner.steps=30")
        changes[key.strip()] = _value(value.strip())
    return changes


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
