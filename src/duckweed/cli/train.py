"""`duckweed train` and `duckweed new`."""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from duckweed.cli.errors import fail, plain_errors

console = Console(highlight=False)


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
    peers: Annotated[int | None, typer.Option(help="How many peers.")] = None,
    rounds: Annotated[int | None, typer.Option(help="How many rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random follows from it.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any key of the specification, such as inner.steps=30."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run: folder runs/NAME.")] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this run from its last closed round.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of each peer.")] = 1,
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
) -> None:
    """Train a model with several peers on this machine, over the same transport as the internet.

    Without arguments: four peers train a small model on Python's own sources for some minutes.
    """
    os.environ["OMP_WAIT_POLICY"] = "passive"  # before torch is loaded; see docs/learn.md
    from duckweed.run import folder as folders
    from duckweed.run import spec as specs

    if resume is not None and specification is not None:
        fail("give either a specification or --resume, not both: a run keeps its specification")
    if (links or step_seconds is not None) and not simulate:
        fail("--links and --step-seconds go with --simulate")
    changes = _changes(data, model, tokenizer, peers, rounds, seed, set_)
    if resume is not None:
        if changes:
            fail(f"a run keeps its specification: {', '.join(changes)} cannot change on --resume")
        found = folders.find(resume)
        return _run(found, specs.load(found.spec), None, device, threads, port, None)
    spec = specs.load(specification) if specification else specs.RunSpec()
    spec = specs.override(spec, changes)
    base = specification.resolve().parent if specification and not data else Path.cwd()
    stem = specification.stem if specification else "train"
    found = folders.create(runs, name or folders.next_name(runs, stem))
    simulation = (links, step_seconds) if simulate else None
    try:
        _run(found, spec, base, device, threads, port, simulation)
    finally:
        folders.discard_if_empty(found)


def _changes(
    data: list[str] | None,
    model: str | None,
    tokenizer: str | None,
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


def _run(
    folder: Any,
    spec: Any,
    base: Path | None,
    device: str,
    threads: int,
    port: int,
    simulation: tuple[str | None, float | None] | None,
) -> None:
    """Found or reopen the run, train it under the live view, and bring in the harvest."""
    from duckweed.cli.view import View

    with console.status("loading PyTorch", spinner="dots") as status:
        import torch

        from duckweed.learn.device import choose
        from duckweed.swarm import genesis
        from duckweed.swarm.harvest import bytes_per_token
        from duckweed.swarm.simulation import parse_links

        torch.set_num_threads(threads)
        device = choose(device)
        peers = spec.rounds.peers
        links = parse_links(simulation[0], peers) if simulation and simulation[0] else None
        say = status.update
        if base is not None:
            ground = genesis.prepare(spec, base, say)
            genesis.found(spec, ground, folder, device, 1 if simulation else peers, say)
        else:
            ground = genesis.reopen(folder, spec)
    console.print(_opening(folder, spec, ground, device))
    view = View(console, folder.path.name, spec, bytes_per_token(ground.dataset))
    if simulation:
        done = _simulate(folder, spec, ground, device, links, simulation[1], view)
    else:
        done = _swarm(folder, spec, device, threads, port, view)
    if done:
        _harvest(folder, spec, ground, device)
    else:
        console.print(
            f"\nStopped after {len(_closed(folder))} closed rounds; nothing of them is lost. "
            f"Go on with: duckweed train --resume {folder.path}"
        )
        raise typer.Exit(130)


def _opening(folder: Any, spec: Any, ground: Any, device: str) -> str:
    from duckweed.swarm import genesis

    facts = ground.dataset.manifest
    return (
        f"[bold]{folder.path}[/]: {spec.model.source}, {genesis.layout(folder).total:,} parameters, "
        f"on {device}; {spec.rounds.peers} peers, {spec.rounds.count} rounds of "
        f"{spec.inner.steps} steps\n"
        f"data {spec.data.path}: {facts.train_bytes / 1e6:.1f} MB in {facts.train_documents:,} "
        f"documents to train on, {facts.held_out_bytes / 1e6:.2f} MB held out; blake3 {facts.hash[:16]}"
    )


def _swarm(folder: Any, spec: Any, device: str, threads: int, port: int, view: Any) -> bool:
    """Train with processes; False if it was interrupted."""
    from duckweed.swarm.local import LocalRun

    with LocalRun(folder, spec, device, threads) as run:
        try:
            run.start(f"127.0.0.1:{port}")
            with view:
                for event in run.events():
                    view.take(event)
        except KeyboardInterrupt:
            return False
    return len(_closed(folder)) >= spec.rounds.count


def _simulate(
    folder: Any, spec: Any, ground: Any, device: str, links: Any, step_seconds: Any, view: Any
) -> bool:
    from duckweed.run import state as states
    from duckweed.swarm import genesis
    from duckweed.swarm.simulation import Simulation

    layout = genesis.layout(folder)
    state = states.load(folder.state(0), layout.digest(), layout.total, len(layout.names))
    try:
        with view:
            simulation = Simulation(
                folder, spec, layout, ground, state, device, links, step_seconds, view.take
            )
            final = simulation.run()
    except KeyboardInterrupt:
        return False
    console.print(
        f"Simulated: on these links and at this speed {spec.rounds.count} rounds take "
        f"{simulation.clock:,.1f} s. Final state {final.hash()[:16]}"
    )
    return True


def _harvest(folder: Any, spec: Any, ground: Any, device: str) -> None:
    from duckweed.cli.summary import render_terminal
    from duckweed.run.summary import summarise
    from duckweed.swarm import genesis
    from duckweed.swarm.harvest import bytes_per_token, harvest
    from duckweed.web.run_page import run_page

    with console.status("measuring and exporting the model"):
        sample = harvest(folder, spec, ground, device)
        summary = summarise(
            folder, spec, genesis.layout(folder).total, bytes_per_token(ground.dataset), sample
        )
        folder.report.write_text(run_page(folder, spec, summary), encoding="utf-8")
    console.print(render_terminal(summary))


def _closed(folder: Any) -> list[Any]:
    from duckweed.run.ledger import Ledger

    ledger = Ledger(folder.ledger)
    try:
        return list(ledger.entries("round"))
    finally:
        ledger.close()
