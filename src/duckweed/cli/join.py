"""`duckweed join`: take part in somebody's run with this machine."""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import fail, plain_errors
from duckweed.cli.common.running import COMPILE, MICRO, Plugins
from duckweed.learn.site.place import LOST, Place

if TYPE_CHECKING:
    from duckweed.volunteer.controls import Controls
    from duckweed.volunteer.peer_home import PeerHome

console = PlainConsole()
LEFT = "what was not handed in is trained by others"


def register(app: typer.Typer) -> None:
    app.command()(join)


@plain_errors
def join(
    invitation: Annotated[
        str | None,
        typer.Argument(help="The line that `duckweed serve` printed. With --home: the one there."),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Where the run's text lies on this machine.")
    ] = None,
    config: Annotated[
        str, typer.Option(help="Where its model's configuration lies, if it is not on the hub.")
    ] = "",
    tokenizer: Annotated[
        str, typer.Option(help="Where its tokenizer lies, if it is not on the hub.")
    ] = "",
    home: Annotated[
        Path | None, typer.Option(help="Folder of this peer; keeps its key. Default: joined/RUN.")
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Be who `duckweed identity NAME` made on this machine."),
    ] = None,
    mirror: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="The run's mirror: take ledger and state from there, also when nobody of the run answers.",
        ),
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: 1.")] = None,
    up: Annotated[str | None, typer.Option(help="At most so fast up: 5mbit.")] = None,
    down: Annotated[str | None, typer.Option(help="At most so fast down: 50mbit.")] = None,
    hours: Annotated[str | None, typer.Option(help="Only then, local time: 22-07.")] = None,
    pause_when_busy: Annotated[
        bool | None,
        typer.Option(
            "--pause-when-busy/--work-when-busy",
            help="Pause while other programs use more than half of the machine.",
        ),
    ] = None,
    memory: Annotated[str | None, typer.Option(help="At most so much memory: 4GB.")] = None,
    disk: Annotated[str | None, typer.Option(help="At most so much disk: 2GB.")] = None,
    micro: Annotated[str | None, typer.Option(metavar="auto|N", help=MICRO)] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Processes of this machine that are one peer together, each on a GPU of its own, or on --threads "
            "threads. Default: 1. For several machines: torchrun.",
        ),
    ] = None,
    shard: Annotated[
        bool | None,
        typer.Option(
            "--shard/--no-shard",
            help="Share out the model over these processes even if each could hold it. Default: only if it has to be.",
        ),
    ] = None,
    offload: Annotated[
        bool | None,
        typer.Option(
            "--offload/--no-offload",
            help="Keep weights, gradients and moments in main memory while the GPU computes: slower, and a larger model "
            "fits. Default: only if it has to be.",
        ),
    ] = None,
    answers_only: Annotated[
        bool | None,
        typer.Option(
            "--answers-only/--train",
            help="Only write answers, from which others learn: for machines that are too small or too slow to train. "
            "In reinforcement learning alone. Default: train.",
        ),
    ] = None,
    compile_: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help=f"{COMPILE} Default: no.")
    ] = None,
    nice: Annotated[int | None, typer.Option(help="0 to 19: how much it yields.")] = None,
    model: Annotated[
        bool | None,
        typer.Option(
            "--model/--no-model",
            help="Write the model at the end of the run. Default: write it.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would do and what it costs, and end.")
    ] = False,
    service: Annotated[
        bool,
        typer.Option("--service", help="Write a systemd user service that does this; no root."),
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Take part in a run with this machine. The same command again goes on as the same peer.

    When the run is over, the peer's folder holds the model, the ledger and a report.

    Limits are kept in the peer's folder (controls.toml) and can be changed there while it runs;
    `duckweed pause`, `resume` and `leave` do the rest.
    """
    from duckweed.library import home_of
    from duckweed.process import logs
    from duckweed.run.lock import Busy, alone

    logs.configure()
    given = {
        "up": up, "down": down, "hours": hours, "pause_when_busy": pause_when_busy,
        "memory": memory, "disk": disk, "threads": threads, "model": model, "nice": nice, "micro": micro,
        "processes": processes, "shard": shard, "offload": offload,
        "answers_only": answers_only, "compile": compile_,
    }  # fmt: skip
    place = Place.here()
    if place:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it is read as PyTorch is loaded
        if processes not in (None, place.size):
            fail(
                f"--processes {processes}, and {place.size} processes were started: leave --processes out"
            )
        given["processes"] = place.size
        if place.rank:
            _follow(place, invitation, home, device, given, plugin or ())
            return
    peer_home, limits = home_of(invitation, home, identity, given, plugin or ())
    if service:
        _service(peer_home, data, config, tokenizer, device)
        return
    if limits.processes > 1 and not place:
        raise typer.Exit(_start(peer_home, limits, device))
    try:
        with alone(peer_home.lock, wait=False):
            _take_part(peer_home, data, device, limits, dry_run, config, tokenizer, mirror, place)
    except Busy:
        fail(
            f"{peer_home.home} is taking part already; end it with: duckweed leave {peer_home.home}"
        )


def _take_part(
    peer_home: "PeerHome",
    data: list[str] | None,
    device: str,
    limits: "Controls",
    dry_run: bool,
    config: str,
    tokenizer: str,
    mirror: str,
    place: Place | None,
) -> None:
    import asyncio

    from duckweed.run.error_words import words

    with console.status("loading PyTorch"):
        from duckweed import participation

    group = participation.meet(place, peer_home.invitation, device) if place else None
    device = participation.ready(limits, group.device if group else device)
    said = [str(group)] if group else []
    said += limits.said()
    console.print(
        f"Joining run {peer_home.invitation.run[:12]} on {device}; files in {peer_home.home}"
        + (f"; {', '.join(said)}" if said else "")
        + ". Ctrl-C leaves."
    )
    try:
        with participation.leading(group) if group else contextlib.nullcontext():
            reason = asyncio.run(
                participation.join(
                    peer_home, data or (), device, _say, dry_run, config, tokenizer, mirror
                )
            )
    except KeyboardInterrupt:
        if group and group.pulse.lost:
            _lost(f"{group.pulse.lost}; {LEFT}")
        console.print(f"Left. {LEFT.capitalize()}.")
        raise typer.Exit(130) from None
    except participation.SiteBroken as error:
        _lost(f"{error}; {LEFT}")
    except (OSError, MemoryError, RuntimeError) as error:
        again = "the same command goes on as the same peer; its block goes back to the others"
        fail(words(error, peer_home.home, again))
    finally:
        if group:
            group.close()
    console.print(f"Done: {reason}")
    if group and group.sharded:  # one device may not hold the model: it is measured in main memory
        device = "cpu"
    for line in () if dry_run else participation.take_home(peer_home, device, _say):
        console.print(line, soft_wrap=True)


def _lost(words: str) -> NoReturn:
    """End as one whose site has lost another process: what started them ends this one, too, which has ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    fail(words, LOST)


def _follow(
    place: Place,
    invitation: str | None,
    home: Path | None,
    device: str,
    given: dict[str, Any],
    plugin: Sequence[Path],
) -> None:
    """Be one of the processes of a site, but not the first, which alone is the peer: write nothing."""
    from duckweed.run import plugins
    from duckweed.run.folder import RunFolder
    from duckweed.swarm.protocol.invitation import read
    from duckweed.volunteer import controls
    from duckweed.volunteer.peer_home import JOINED, find

    asked = read(invitation) if invitation else find(home).invitation
    folder = RunFolder(home or JOINED / asked.run[:12])
    if plugin:
        plugins.load(plugin)
    else:
        plugins.load_of(folder)
    limits = controls.changed(controls.load(folder.peer(0)), given)

    from duckweed import participation

    group = participation.meet(place, asked, device)
    participation.ready(limits, group.device)
    try:
        participation.follow(group, lambda text: _say(f"process {place.rank}: {text}"))
    except participation.SiteBroken as error:
        _lost(str(error))
    finally:
        group.close()


def _start(peer_home: "PeerHome", limits: "Controls", device: str) -> int:
    """Start the processes of a site; returns the exit code."""
    from duckweed.process import site

    logs = peer_home.peer / "logs"
    module = "duckweed.cli.common.rank"
    return site.run(module, sys.argv[1:], limits.processes, device, limits.threads, logs, _say)


def _service(
    peer_home: "PeerHome", data: list[str] | None, config: str, tokenizer: str, device: str
) -> None:
    from duckweed.volunteer.systemd import unit, write

    path = write(
        peer_home,
        unit(peer_home, [sys.executable, "-m", "duckweed"], data or [], device, config, tokenizer),
    )
    console.print(
        f"Wrote {path}. Nothing runs yet. Then:\n\n"
        f"  systemctl --user daemon-reload\n"
        f"  systemctl --user enable --now {path.name}\n"
        f"  loginctl enable-linger          so that it also runs while you are not logged in\n"
        f"  journalctl --user -fu {path.name}\n",
        soft_wrap=True,
    )


def _say(text: str) -> None:
    console.print(text)
