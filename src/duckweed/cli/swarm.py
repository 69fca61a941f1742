"""`duckweed serve` and `duckweed join`: a run over several machines."""

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from duckweed.cli import running
from duckweed.cli.errors import plain_errors

console = Console(highlight=False)


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(join)


@plain_errors
def serve(
    specification: Annotated[
        Path | None, typer.Argument(help="A run specification, or the folder of a run to go on.")
    ] = None,
    train: Annotated[int, typer.Option(help="How many peers to run beside the coordinator.")] = 0,
    listen: Annotated[str, typer.Option(help="Address and UDP port.")] = "0.0.0.0:0",
    public: Annotated[
        list[str] | None,
        typer.Option(help="IP:PORT at which others reach this machine, if it is not its own."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run: folder runs/NAME.")] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="Of the peers beside it.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of each peer beside it.")] = 1,
) -> None:
    """Coordinate a run for peers on other machines; prints the invitation that they join with.

    The run begins when as many peers are there as rounds.peers says.
    """
    os.environ["OMP_WAIT_POLICY"] = "passive"
    from duckweed.run import folder as folders
    from duckweed.run import spec as specs
    from duckweed.swarm.invitation import Invitation
    from duckweed.swarm.local import LocalRun

    if specification and specification.is_dir():
        run = running.reopen(folders.find(specification), device, threads)
    else:
        spec = specs.load(specification) if specification else specs.RunSpec()
        base = specification.resolve().parent if specification else Path.cwd()
        name = name or folders.next_name(runs, specification.stem if specification else "serve")
        run = running.begin(spec, base, folders.create(runs, name), device, threads, train)
    with (
        contextlib.suppress(KeyboardInterrupt),
        LocalRun(run.folder, run.spec, run.device, threads, train) as processes,
    ):
        serving = processes.start(listen)
        addresses = (*(public or []), *serving["addresses"])
        secret = run.folder.read_secret()
        invitation = Invitation(run.spec.identity, serving["id"], addresses, secret)
        console.print("Whoever has this line can take part:\n")
        console.print(f"duckweed join {invitation}\n", soft_wrap=True)
        running.watch(run, processes.events())
    running.finish(run)


@plain_errors
def join(
    invitation: Annotated[str, typer.Argument(help="The line that `duckweed serve` printed.")],
    data: Annotated[
        list[str] | None, typer.Option(help="Where the run's text lies on this machine.")
    ] = None,
    home: Annotated[
        Path | None, typer.Option(help="Folder of this peer; keeps its key. Default: joined/RUN.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Take part in a run with this machine. The same command again goes on as the same peer."""
    os.environ["OMP_WAIT_POLICY"] = "passive"
    import asyncio

    from duckweed.swarm.invitation import read

    invited = read(invitation)
    place = home or Path("joined") / invited.run[:12]
    with console.status("loading PyTorch"):
        import torch

        from duckweed.learn.device import choose
        from duckweed.swarm.joining import join as take_part

        torch.set_num_threads(threads)
        device = choose(device)
    console.print(
        f"Joining run {invited.run[:12]} on {device} with {threads} "
        f"{'thread' if threads == 1 else 'threads'}; files in {place}. Ctrl-C leaves."
    )
    try:
        reason = asyncio.run(take_part(invited, place, tuple(data or ()), device, _say))
    except KeyboardInterrupt:
        console.print("Left. What was not handed in is trained by others.")
        raise typer.Exit(130) from None
    console.print(f"Done: {reason}")


def _say(text: str) -> None:
    console.print(text, markup=False)
