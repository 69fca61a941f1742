"""A peer's part in a run of others: made ready, taken, what it has given, what it takes home."""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import closing
from typing import Any

import msgspec
import torch

from duckweed.learn import memory
from duckweed.learn.device import choose
from duckweed.learn.site.group import Group
from duckweed.learn.site.group import SiteBroken as SiteBroken
from duckweed.learn.site.leader import leading as leading
from duckweed.learn.site.member import Member
from duckweed.learn.site.place import Place
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.identity import Identity, load_or_create, verify
from duckweed.net.timeouts import RETRY
from duckweed.net.transport import LinkError
from duckweed.pages.live.follow import Follower
from duckweed.pages.run_summary import tried
from duckweed.process.environment import allow_files
from duckweed.round import export, founding
from duckweed.run import spec as specs
from duckweed.run.error_words import EXPECTED, words
from duckweed.run.family import name_of
from duckweed.run.folder import RunFolder
from duckweed.run.lock import alone
from duckweed.run.sections import Paths
from duckweed.run.spec import SpecError
from duckweed.session import Say, Session, closed_rounds, finish
from duckweed.swarm.peer import keeper
from duckweed.swarm.peer.bootstrap import Bootstrap
from duckweed.swarm.peer.join import OVER
from duckweed.swarm.peer.join import join as take_part
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol import offers
from duckweed.swarm.protocol.client import is_final
from duckweed.swarm.protocol.invitation import Invitation
from duckweed.volunteer import controls, given
from duckweed.volunteer.controls import Controls
from duckweed.volunteer.given import Given
from duckweed.volunteer.peer_home import PeerHome
from duckweed.volunteer.watch import hold_to
from duckweed.wire import threads

STANDING = 60.0  # seconds between two sentences on what a peer has given
PATIENCE = 60.0  # seconds for which an organiser of a family may be away between two paths
Look = Callable[..., Awaitable[list[m.PathOffer]]]
AWAY = "the organiser of the family is not there any more; the same command goes on when it is back"


def ready(limits: Controls, device: str) -> str:
    """Make this process ready to be a volunteer's peer: its priority, its memory and its threads are held
    to the limits from now on. Returns the device as PyTorch names it. Raises OutOfMemory where they allow less than
    any peer takes."""
    place = Place.here()
    if (
        place and limits.memory_bytes
    ):  # the processes of a site share what it allows on this machine
        own = limits.memory_bytes / place.beside / 1e6
        limits = msgspec.structs.replace(limits, memory=f"{own:.3f} MB")
    device = choose(device)
    memory.check_limit(limits.memory_bytes, device)
    memory.one_heap()
    torch.set_num_threads(limits.threads)
    threads.use(limits.threads)
    allow_files()
    hold_to(limits, device)
    return device


def meet(place: Place, invitation: Invitation, device: str) -> Group:
    """The other processes of this site. device: as the user named it. Raises SiteError."""
    return Group.meet(place, f"{invitation.run}/{invitation.coordinator}", device)


def follow(group: Group, say: Say) -> None:
    """Train for the first process of this site, which is the peer, until it ends. Raises SiteBroken, OutOfMemory."""
    try:
        Member(group, say).follow()
    except EXPECTED as error:
        if isinstance(error, RuntimeError) and (broken := group.broken(error)):
            raise broken from error
        group.pulse.tell_fault(words(error))
        raise


async def join(
    home: PeerHome,
    data: Sequence[str],
    device: str,
    say: Say,
    dry_run: bool = False,
    config: str = "",
    tokenizer: str = "",
    mirror: str = "",
) -> str:
    """Take part in the run of an invitation until it ends; returns the reason. device: what `ready` gave;
    data, config, tokenizer: where they lie on this machine, if the user has named them; mirror: URL of
    the run's mirror. What there is to take home afterwards, `take_home` takes.

    Raises LinkError, DataError, ModelError, OutOfMemory, ControlsError, PeerStopped."""
    reason = await _one(home, data, device, say, dry_run, config, tokenizer, mirror)
    if reason.startswith(m.ALL_DONE) and _parts(home):
        return await _train_paths(home, data, device, say, dry_run, config, tokenizer, mirror)
    return reason


async def _one(
    home: PeerHome, data: Sequence[str], device: str, say: Say, *more: Any, **others: Any
) -> str:
    """Take part in one run until it ends; returns the reason. more, others: as of `take_part`."""
    telling = asyncio.create_task(_tell_standing(home, say))
    try:
        return await take_part(
            home.invitation, home.home, tuple(data), device, say, *more, **others
        )
    finally:
        telling.cancel()


def _parts(home: PeerHome) -> bool:
    """Whether the run was the common start of a family, which goes on with its paths."""
    spec = specs.load(RunFolder(home.home).spec)
    return isinstance(spec.paths, Paths) and spec.path is None


async def _train_paths(
    home: PeerHome,
    data: Sequence[str],
    device: str,
    say: Say,
    dry_run: bool,
    config: str,
    tokenizer: str,
    mirror: str,
) -> str:
    """Train one path after the other, as long as there is one that is not over, and take home what they give; returns
    the reason why it ended. Raises as `join` does."""
    done: dict[int, PeerHome] = {}
    over: set[int] = set()  # also those that were over before this machine came
    own_number, elsewhere = int(load_or_create(home.peer / "key").id[:8], 16), None
    lost: float | None = None  # since when no path can be reached
    keeping = _keeper(home, say)
    look = _look(home, keeping)
    paths = specs.load(RunFolder(home.home).spec).paths
    together = isinstance(paths, Paths) and not paths.apart
    while True:
        if keeping:
            await keeping.all_but(None)
        offered = await _offered(look, say)
        for path, offer in enumerate(offered):  # this machine may know it before the organiser does
            offer.over |= path in over
        number, elsewhere = elsewhere, None
        if not offered or number is None or offered[number].over:
            number = offers.choose(offered, own_number)
        if number is None:
            reason = m.ALL_DONE if offered else AWAY
            break
        offer, own = offered[number], keeper.home_of(home, number, offered[number])
        if keeping:
            await keeping.all_but(number)
        say(f"training path {number} ({offer.tokens:,} tokens and {offer.here} peers so far)")
        at = offers.mirror_of(mirror, name_of(number)) if mirror else ""
        try:
            with alone(own.lock, wait=False):
                taking_part = _one(own, data, device, say, dry_run, config, tokenizer, at)
                reason, elsewhere = await _until_needed_elsewhere(
                    look, number, taking_part, offered, together
                )
        except (
            LinkError
        ) as error:  # an organiser who is restarted begins the paths' coordinators anew
            lost = lost or time.monotonic()
            if is_final(error) or time.monotonic() - lost > PATIENCE + _takeover(home):
                raise
            say(f"path {number} cannot be reached ({error}); asking the organiser again")
            await asyncio.sleep(RETRY)
            continue
        lost = None
        if elsewhere is not None:
            say(offers.going(number, elsewhere))
        elif reason.startswith((m.ALL_DONE, OVER)):
            over.add(number)
            done |= {number: own} if reason.startswith(m.ALL_DONE) else {}
            if len(over) == len(offered):  # nobody need be there to say so
                reason = m.ALL_DONE
                break
        else:
            break
    if keeping:
        await keeping.close()
    for own in done.values():
        for line in take_home(own, device, say):
            say(line)
    return reason


def _keeper(home: PeerHome, say: Say) -> keeper.Keeper | None:
    """What keeps the runs that this machine does not train, where it is named as a successor of the family."""
    folder, key = RunFolder(home.home), load_or_create(home.peer / "key").id
    if key not in dict(specs.load(folder.spec).members.heirs):
        return None
    say(
        "this machine is named as a successor: it keeps the ledgers of all paths, and may come to lead them"
    )
    return keeper.Keeper(home, say)


def _takeover(home: PeerHome) -> float:
    """Seconds in which successors of the family should have taken over; 0 where none are named."""
    members = specs.load(RunFolder(home.home).spec).members
    return 2 * members.absence if members.successors else 0.0


async def _until_needed_elsewhere(
    look: Look,
    number: int,
    taking_part: Coroutine[Any, Any, str],
    offered: list[m.PathOffer],
    together: bool,
) -> tuple[str, int | None]:
    """Train path `number` until it ends, with the reason, or until another path needs this peer more: its number.
    offered, together: as of `_elsewhere`. Raises what taking part raises."""
    working = asyncio.create_task(taking_part)
    looking = asyncio.create_task(_elsewhere(look, number, offered, together))
    try:
        await asyncio.wait([working, looking], return_when=asyncio.FIRST_COMPLETED)
        return (working.result(), None) if working.done() else ("", looking.result())
    finally:
        for task in (looking, working):
            task.cancel()
        await asyncio.wait([working, looking])


def _look(home: PeerHome, keeping: keeper.Keeper | None) -> Look:
    """What tells of the paths. Its argument: the key to ask by, where somebody has to be asked."""

    async def look(identity: Identity | None = None) -> list[m.PathOffer]:
        if keeping:
            return keeping.offered()
        try:
            return await _offers(home, identity or load_or_create(home.peer / "key"))
        except LinkError:
            if found := await _of_successors(home):
                return found
            raise

    return look


async def _offered(look: Look, say: Say) -> list[m.PathOffer]:
    """The paths of the family, once there is one to train or all are over; none where nobody answers for a while."""
    told, closes = "", time.monotonic() + PATIENCE
    while True:
        words = "the common start is done; waiting for the paths to begin"
        try:
            found = await look()
            if offers.open_to(found) or (found and all(offer.over for offer in found)):
                return found
            closes = time.monotonic() + PATIENCE
        except LinkError as error:
            words = f"the organiser of the family cannot be reached ({error}); trying again"
            if time.monotonic() > closes:
                return []
        if told != words:
            told = words
            say(told)
        await asyncio.sleep(RETRY)


async def _offers(home: PeerHome, identity: Identity) -> list[m.PathOffer]:
    """The paths of a family, as the coordinator of its common start tells. Raises LinkError."""
    invitation, limits = home.invitation, controls.load(home.peer)
    folder = RunFolder(home.home)
    async with Bootstrap(invitation, folder, identity, limits, lambda text: None) as bootstrap:
        asking = m.GetPaths(m.PROTOCOL, invitation.secret)
        _, (answer, _) = await bootstrap.meet(lambda client: client.ask(asking))
    return answer.paths


async def _of_successors(home: PeerHome) -> list[m.PathOffer]:
    """The paths of a family whose common start nobody leads, as its successors tell who lead a path; none where none are
    named."""
    around = RunFolder(home.home)
    if not specs.load(around.spec).members.successors:
        return []
    return await keeper.ask_voters([x.parent for x in around.path.glob("path-*/voters.json")])


async def _elsewhere(look: Look, kept: int, offered: list[m.PathOffer], together: bool) -> int:
    """The path that needs this peer more than the one that it trains, once there is one. It asks by another key, since
    its own is at work. offered: all of them, as they were a moment ago; together: as of `offers.look_after`."""
    asking = Identity(os.urandom(32))
    while True:
        pause = offers.look_after(offered, together)
        await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # not all at once
        with contextlib.suppress(LinkError, OSError):
            offered = await look(asking)
            if kept >= len(offered):  # an organiser who was restarted has not begun them yet
                continue
            to = offers.stay_or_go(offered, kept, together)
            if to != kept and random.random() < offers.urge(offered, kept, to):
                return to


async def _tell_standing(home: PeerHome, say: Say) -> None:
    """Now and then what the peer has given, where that has grown; kept for `duckweed me`."""
    run, rounds = None, 0
    while True:
        await asyncio.sleep(STANDING)
        with contextlib.suppress(LedgerError, SpecError, OSError):
            run = run or (Follower(RunFolder(home.home)) if RunFolder(home.home).founded else None)
            found = await asyncio.to_thread(standing, home, run) if run else None
            if found and found.rounds > rounds:
                rounds = found.rounds
                say(f"given so far: {found.sentence()}")


def standing(home: PeerHome, run: Follower | None = None) -> Given | None:
    """What a peer has given to its run, by its copy of the ledger, noted for `duckweed me`; None before it
    was admitted. run: what was read of the ledger before. Raises LedgerError, SpecError, OSError."""
    run = run or Follower(RunFolder(home.home))
    run.look()
    key = load_or_create(home.peer / "key").id
    me = next((x for x in run.peers.values() if x.key == key), None)
    if me is None:
        return None
    found = Given(
        run=run.spec.identity, key=key, home=str(home.home.resolve()),
        tokens=me.tokens, rounds=me.counted, share=me.tokens / max(1, run.tokens),
        place=1 + sum(x.tokens > me.tokens for x in run.peers.values()),
        peers=len(run.peers), over=run.done, head=run.head, time=time.time(),
    )  # fmt: skip
    given.keep(found)
    return found


def take_home(home: PeerHome, device: str, say: Say) -> list[str]:
    """Of a run that is over: its model, ledger and report in the peer's own folder, from the state that it
    holds; nobody is asked. Returns what there is, in lines; none where the last round is not here.

    Raises LedgerError, StateError, ModelError, DataError, OSError."""
    folder = RunFolder(home.home)
    if not folder.spec.is_file() or not folder.ledger.is_file():
        return []
    spec, keep = specs.load(folder.spec), controls.load(home.peer).model
    count = spec.schedule.rounds
    if closed_rounds(folder) < count or not folder.state(count).is_file():
        return []
    with closing(Ledger(folder.ledger)) as ledger:
        entries, head = ledger.verify(verify), ledger.head
    done = folder.report.is_file() and (not keep or (folder.model / "config.json").is_file())
    if not done:
        say("measuring and exporting the model" if keep else "measuring the model")
        run = Session(folder, spec, founding.reopen(folder, spec), device, torch.get_num_threads())
        finish(run, keep)
    if export.agreed(folder, count):
        told = "its last state is the one that the peers agreed on"
    else:
        told = "nobody has confirmed the last state: it is as this machine computed it"
    mine = standing(home)
    return [
        *([f"given    {mine.sentence()}; over all runs: duckweed me"] if mine else []),
        f"ledger   {folder.ledger}: {entries} entries, chain and signatures hold, head {head[:16]}; {told}",
        f"report   {folder.report}",
        *([f"model    {folder.model}", f"try it   {tried(folder, spec)}"] if keep else []),
    ]
