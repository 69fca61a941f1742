"""`duckweed serve` and `duckweed invite`: the organiser's side of a run over several machines."""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperCommand

from duckweed.cli.common import running, specified
from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import fail, plain_errors

if TYPE_CHECKING:
    from duckweed.pages.live.served import Served
    from duckweed.process.serving import Way
    from duckweed.session import Session
    from duckweed.swarm.coordinator.guest_book import GuestBook

console = PlainConsole()
ANSWERS = 600.0  # seconds for which a run that is over is still served
LAST = "last"  # value of --page where none is given
SERVED = "serve"  # name of the invitation that `duckweed serve` prints


class ServeCommand(TyperCommand):
    """`serve`, whose option --page may stand without a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = [
            f"--page={LAST}" if one == "--page" and not _is_address(args[i + 1 : i + 2]) else one
            for i, one in enumerate(args)
        ]
        return super().parse_args(ctx, given)


def _is_address(following: list[str]) -> bool:
    return bool(following and re.fullmatch(r"\S*:\w+", following[0]))


def register(app: typer.Typer) -> None:
    app.command(cls=ServeCommand)(serve)
    app.command()(invite)


@plain_errors
def serve(
    specification: Annotated[
        Path | None, typer.Argument(help="A run specification, or the folder of a run to go on.")
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
    train: Annotated[int, typer.Option(help="How many peers to run beside the coordinator.")] = 0,
    listen: Annotated[
        str | None,
        typer.Option(
            help="ADDRESS:PORT, for UDP and TCP; the relay takes the next TCP port. Default: every "
            "address, any port; for a run that goes on, those of the last time."
        ),
    ] = None,
    public: Annotated[
        list[str] | None,
        typer.Option(help="IP:PORT at which others reach this machine, if it is not its own."),
    ] = None,
    relay: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A relay elsewhere, run by `duckweed relay`."),
    ] = None,
    own_relay: Annotated[
        bool,
        typer.Option("--own-relay/--no-relay", help="Run a relay beside the coordinator."),
    ] = True,
    name: Annotated[str | None, typer.Option(help="Name of the run: folder runs/NAME.")] = None,
    runs: Annotated[Path, typer.Option(help="Where run folders are kept.")] = Path("runs"),
    device: Annotated[str, typer.Option(help="Of the peers beside it.")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads of each peer beside it.")] = 1,
    page: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:PORT]",
            help="Show the run as a page while it is served. Default: where it was the last time, else any "
            "free port of 127.0.0.1; 0.0.0.0:8080 for everybody.",
        ),
    ] = None,
    samples: Annotated[
        bool,
        typer.Option(
            "--samples/--no-samples",
            help="With --page: let the model write a text every few rounds, on this machine.",
        ),
    ] = True,
    plugin: running.Plugins = None,
    log: running.Logs = None,
    mirror: running.MirrorUrl = None,
) -> None:
    """Coordinate a run for peers on other machines; prints the invitation that they join with.

    The run begins when as many peers are there as rounds.peers says. `duckweed invite` makes
    invitations that are limited or for one person, and revokes them. A family of paths is served by one
    invitation; each peer chooses its path.
    """
    from msgspec import UNSET

    from duckweed.cli.common import families
    from duckweed.family import folder as family_folders
    from duckweed.learn.fit import Machine
    from duckweed.pages import trackers
    from duckweed.process.serving import Way
    from duckweed.run import folder as folders
    from duckweed.run import plugins

    trackers.check(log or [])
    running.check_mirror(mirror)
    if page and page != LAST:  # before a folder is made for the run
        from duckweed.pages.live.server import check

        check(page)
    wanted = specified.changes(
        data, field, encoding, limit, model, tokenizer, peers, rounds, seed, set_, saving
    )
    way = Way(listen, public or [], relay or [], own_relay)
    beside = families.Beside(log or [], mirror)
    at = "" if page == LAST else page
    if specification and (found := family_folders.find(specification)):
        specified.refuse_with_run(wanted, recipe)
        families.check_ports(found.read_spec(), _port(listen))
        family = families.reopen(found, device, threads, plugin or ())
        families.serve(family, way, train, at, samples, beside)
        return
    if specification and specification.is_dir():
        specified.refuse_with_run(wanted, recipe)
        run = running.reopen(
            folders.find(specification), device, threads, plugin or (), peers=train
        )
    else:
        loaded = plugins.load(plugin or ())
        spec, base = specified.specification(specification, recipe, wanted)
        name = name or folders.next_name(runs, specification.stem if specification else "serve")
        place = folders.Destination(base, runs, name)
        if spec.paths is not UNSET:
            families.check_ports(spec, _port(listen))
            family = families.begin(spec, place, Machine(device, threads), loaded, True)
            families.serve(family, way, train, at, samples, beside)
            return
        run = running.begin(spec, place, Machine(device, threads, train), loaded)
    with _shown(run, page, samples) as shown:
        if running.trained(run) and running.finished(run):
            running.finish(run)
            _answer(run, way)
            return
        with running.stoppable(run, "duckweed serve"):
            if not running.trained(run):
                _serve(run, train, threads, way, shown, log or [], mirror)
            running.finish(run)


def _port(listen: str | None) -> int:
    """Of ADDRESS:PORT; 0 where none is named."""
    port = (listen or "").rpartition(":")[2]
    return int(port) if port.isdigit() else 0


@contextlib.contextmanager
def _shown(run: "Session", page: str | None, samples: bool) -> Iterator["Served | None"]:
    """The page of the run, if it is wanted."""
    if page is None:
        yield None
        return
    from duckweed import session
    from duckweed.pages.live.served import served

    sampler = session.sampler(run) if samples else None
    with served(run.folder, "" if page == LAST else page, sampler) as shown:
        console.print(f"The run is shown at {shown.url}", soft_wrap=True)
        if samples and sampler is None:
            console.print("There is too little memory to let the model write beside it.")
        yield shown


def _serve(
    run: "Session",
    train: int,
    threads: int,
    way: "Way",
    shown: "Served | None",
    log: list[str],
    mirror: str | None,
) -> None:
    """Coordinate until all rounds are done; prints the invitation first."""
    from duckweed.process import serving as serving_at
    from duckweed.process.local_run import LocalRun
    from duckweed.swarm.coordinator.guest_book import GuestBook
    from duckweed.swarm.protocol.invitation import published

    is_open = run.spec.members.join == "open"
    guests = GuestBook(run.folder.guests)
    secret = "" if is_open else guests.unlimited(SERVED)
    guests.close()
    share = run.share(train)
    with LocalRun(run.folder, run.spec, run.device, threads, train, share) as processes:
        serving = serving_at.serve(run.folder, run.spec, processes, way)
        console.print(
            "Anybody can take part:\n" if is_open else "Whoever has this line can come:\n"
        )
        invitation = published(run.folder).with_secret(secret)
        taken = f" --mirror {mirror}" if mirror and "://" in mirror else ""
        console.print(f"duckweed join {invitation}{taken}\n", soft_wrap=True)
        port = serving.bound[0].rpartition(":")[2]
        console.print(
            f"Others reach this machine at UDP port {port} and, faster, TCP port {port}"
            + (f"; the relay is at TCP port {serving.relay}." if way.own_relay else "."),
            style="dim",
        )
        if mirror:
            console.print(
                f"The run is mirrored into {mirror}. Whoever can read it takes ledger and state from there: "
                f"duckweed join ... --mirror {mirror}",
                style="dim",
                soft_wrap=True,
            )
        if words := running.successors(run.spec):
            console.print(words, style="dim")
        if shown is None:
            running.watch(run, processes.events(), log, mirror)
            return
        from duckweed import session
        from duckweed.pages.live.sections import Terms

        command = f"duckweed join {invitation}{taken}" if is_open else ""
        shown.invite(Terms(command, tuple(session.needs(run))))
        running.watch(run, shown.seen(processes.events()), log, mirror)


def _answer(run: "Session", way: "Way") -> None:
    """Tell those who ask, for a while, that the run is over."""
    from duckweed.process import serving as serving_at
    from duckweed.process.local_run import LocalRun

    console.print(
        f"For {ANSWERS / 60:.0f} minutes whoever asks is told so, at the addresses of its invitations. "
        "Ctrl-C ends this.",
        style="dim",
    )
    closes = time.monotonic() + ANSWERS
    with (
        contextlib.suppress(KeyboardInterrupt),
        LocalRun(run.folder, run.spec, run.device, 1, 0) as processes,
    ):
        serving_at.serve(run.folder, run.spec, processes, way, stays=True)
        for _ in processes.events():
            if time.monotonic() > closes:
                break


@plain_errors
def invite(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or its name under runs/.")],
    uses: Annotated[
        int | None, typer.Option(help="How many machines may come by it. Default: any number.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="For how long it lets newcomers in: 7d, 12h.")
    ] = None,
    name: Annotated[str, typer.Option(help="For whom it is; only you see it.")] = "",
    list_: Annotated[bool, typer.Option("--list", help="Show the invitations given out.")] = False,
    revoke: Annotated[
        str | None, typer.Option(metavar="ID", help="Let nobody new in by this invitation.")
    ] = None,
    expel: Annotated[
        bool, typer.Option("--expel", help="With --revoke: also put out those who came by it.")
    ] = False,
) -> None:
    """Make an invitation to a run, list those given out, or revoke one. Works while the run is
    served and while it is not."""
    from duckweed.run import folder as folders
    from duckweed.run import spec as specs
    from duckweed.run import units
    from duckweed.swarm.coordinator.guest_book import GuestBook
    from duckweed.swarm.protocol.invitation import published

    if expel and not revoke:
        fail("--expel goes with --revoke ID")
    if (list_ or revoke) and (uses or expires or name):
        fail("--uses, --expires and --name are for new invitations")
    folder = folders.find(run)
    led = [
        path for path in sorted(folder.path.glob("path-*")) if (path / folder.serving.name).exists()
    ]
    if led and not folder.serving.exists():
        fail(
            f"{run} is the common start of a family, which another machine leads. Of the family's paths this machine "
            f"leads {', '.join(path.name for path in led)}; a newcomer is invited to one of them, and "
            f"trains that one only: duckweed invite {run / led[0].name}"
        )
    guests = GuestBook(folder.guests)
    if list_:
        _show(guests)
    elif revoke:
        out = guests.revoke(revoke, expel)
        more = f"; {out} who came by it {'is' if out == 1 else 'are'} put out" if expel else ""
        console.print(f"Invitation {revoke} is revoked{more}.")
    elif specs.members(folder.spec.read_text("utf-8"), str(folder.spec)).join == "open":
        console.print(f"This run is open to anybody: duckweed join {published(folder)}")
    else:
        template = published(folder)
        seconds = units.duration(expires, "--expires").value if expires else None
        secret = guests.issue(name, uses, seconds)
        times = f"for {uses} {'machine' if uses == 1 else 'machines'}" if uses else "for any number"
        until = f", until {_date(time.time() + seconds)}" if seconds else ""
        console.print(f"Invitation {secret.partition('.')[0]} {times}{until}:\n")
        console.print(f"duckweed join {template.with_secret(secret)}", soft_wrap=True)
    guests.close()


def _show(guests: "GuestBook") -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("id", "name", "came", "of", "until", "state"):
        table.add_column(column)
    now = time.time()
    for one in guests.issued():
        until = _date(one.expires) if one.expires else "always"
        of = str(one.uses) if one.uses else "any"
        table.add_row(one.id, one.name, str(one.came), of, until, one.state(now))
    console.print(table if table.row_count else "No invitation was given out yet.")


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
