"""Joining a run from another machine: its specification, data, state, and then a peer like any other."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from msgspec import UNSET

from duckweed.ledger.entries import StateEntry
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.identity import Identity, load_or_create
from duckweed.net.timeouts import RETRY
from duckweed.net.transport import LinkError
from duckweed.round import founding
from duckweed.round.worker import Worker
from duckweed.run import spec as specs
from duckweed.run.folder import RunFolder, private, write_atomically
from duckweed.run.sections import Paths
from duckweed.run.spec import RunSpec
from duckweed.swarm.blobs.mirror import Mirror, MirrorError
from duckweed.swarm.blobs.peer_links import PeerLinks
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.peer.bootstrap import Bootstrap
from duckweed.swarm.peer.from_mirror import FromMirror
from duckweed.swarm.peer.newest_state import newest
from duckweed.swarm.peer.peer import Peer
from duckweed.swarm.peer.preparation import ROUTER_LIMIT, fetch_router, ground_here, prepare
from duckweed.swarm.peer.sources import Sources
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import Client, is_final
from duckweed.swarm.protocol.errors import PeerStopped
from duckweed.swarm.protocol.invitation import Invitation
from duckweed.volunteer import controls
from duckweed.volunteer.controls import Controls

Say = Callable[[str], None]
DRY = "nothing was begun"
OVER = "the run is over"
BEHIND = (
    2  # checkpoints that the state of a mirror may be behind the run: what follows are updates only
)


async def join(
    invitation: Invitation,
    home: Path,
    data: tuple[str, ...] | None,
    device: str,
    say: Say,
    dry_run: bool = False,
    config: str = "",
    tokenizer: str = "",
    mirror: str = "",
) -> str:
    """Take part in the run until it ends; returns the reason. home: this peer's folder, which holds
    its key: the same folder, the same peer. data, config, tokenizer: where the joiner says that these lie; of
    the run's own word nothing on this machine is read. dry_run: end after saying what it would do. mirror: URL of
    the run's mirror, also named by the joiner.

    Raises LinkError, DataError, ModelError, OutOfMemory, ControlsError, MirrorError, PeerStopped.
    """
    own = Sources(tuple(data or ()), config, tokenizer)
    place = Mirror(mirror) if mirror else None  # a wrong URL is told at once
    folder = RunFolder(home)
    private(home)
    for part in (folder.states, folder.blobs, folder.logs):
        part.mkdir(parents=True, exist_ok=True)
    identity = load_or_create(folder.peer(0) / "key")
    limits = controls.load(folder.peer(0))
    copy = FromMirror(place, invitation, folder, identity, say) if place else None
    say("calling the coordinator")
    told, liars = "", set[str]()  # keys of those who gave what is wrong
    while True:
        try:
            reason = await _take_part(
                invitation, folder, identity, own, device, limits, say, dry_run, liars, copy
            )
            if reason == m.ALL_DONE:
                folder.note({"over": reason})
            return reason
        except LinkError as error:
            # A coordinator that is there and says no, or nonsense, would say it again.
            final = is_final(error)
            if not final and not dry_run and copy and not folder.local().get("over"):
                say(f"{error}; looking into the mirror")
                held = await asyncio.to_thread(_alone, copy, folder, own, device, limits, say)
                if held is None:
                    return m.ALL_DONE
                raise LinkError(f"{error}. {held}") from error
            # A newcomer learns at once that nobody answers.
            if final or not folder.saved_rounds():
                raise
            if over := folder.local().get("over"):
                return f"{over}, as was known when this machine took part; the coordinator is not there any more"
            if told != str(error):
                told = str(error)
                say(f"the coordinator cannot be reached ({error}); trying again. Ctrl-C ends this.")
            await asyncio.sleep(RETRY)


async def _take_part(
    invitation: Invitation, folder: RunFolder, identity: Identity, own: Sources,
    device: str, limits: Controls, say: Say, dry_run: bool, liars: set[str], copy: FromMirror | None,
) -> str:  # fmt: skip
    """Come to the run, and stay until it ends; returns the reason."""
    async with Bootstrap(invitation, folder, identity, limits, say) as bootstrap:
        client, (info, spec) = await bootstrap.meet(lambda x: terms(x, invitation))
        if limits.answers_only and spec.no_writers:
            raise PeerStopped(
                f"--answers-only: this run takes nobody who only writes answers: {spec.no_writers}. To train: --train"
            )
        done = info.round >= spec.schedule.rounds
        # A path that nobody trained in its last rounds needs somebody who holds its last state.
        if done and not folder.saved_rounds() and not spec.in_common:
            if spec.paths is UNSET or spec.path is not None:
                return await _over(client, invitation)
            write_atomically(folder.spec, info.spec.encode())
            return m.ALL_DONE  # of the common start: the paths are what there is to train
        write_atomically(folder.spec, info.spec.encode())
        await fetch_router(client, spec, invitation.secret, folder)
        worker, found = await prepare(
            client, info, spec, invitation.secret, folder, own, device, limits, say
        )
        say(found.sentence())
        if dry_run:
            return DRY
        joining = m.Join(m.PROTOCOL, invitation.secret, writes=limits.answers_only)
        await client.ask(joining)
        node = await bootstrap.settle(spec, worker.layout)
        links = PeerLinks(bootstrap.endpoint, Store(folder), client, liars)
        agreed = node.replica.ledger.agreed_states() if node else None
        behind = 0
        if copy:
            taken = await asyncio.to_thread(
                _mirrored, copy, folder, worker, agreed, info.round, say
            )
            behind = BEHIND * spec.rounds.checkpoint if taken else 0
        try:
            state = await newest(client, links, folder, worker.layout, agreed, say, behind)
        finally:
            links.close()
        client.close()
        if node:
            peer = Peer(
                identity, worker, state, folder.peer(0), folder, node.leader_address(),
                invitation.secret, say, node, limits.answers_only,
            )  # fmt: skip
            return await bootstrap.stay(peer, node)
    meeting = (invitation.coordinator, list(invitation.addresses))
    secret = invitation.secret
    return await Peer(
        identity, worker, state, folder.peer(0), folder, meeting, secret, say,
        writes=limits.answers_only,
    ).run()  # fmt: skip


def _mirrored(
    copy: FromMirror, folder: RunFolder, worker: Worker, agreed: dict[int, str] | None, now: int, say: Say
) -> bool:  # fmt: skip
    """Take from the mirror the ledger, where this machine does not get it from the voters, a state that is not
    far behind the run (`now`), and the blobs that lead on from it. False where that is not to be had."""
    try:
        if agreed is None:
            copy.ledger()
            with contextlib.closing(Ledger(folder.ledger)) as ledger:
                agreed = ledger.agreed_states()
        after = now - BEHIND * worker.spec.rounds.checkpoint - 1
        round_ = copy.state(worker.layout, agreed, after)
        if round_ is not None:
            copy.blobs(worker.spec, worker.layout, round_)
            return True
        say("the mirror has no state that is of use; asking the run's machines")
    except (MirrorError, LedgerError) as error:
        say(f"{error}; asking the run's machines")
    return False


def _alone(
    copy: FromMirror, folder: RunFolder, own: Sources, device: str, limits: Controls, say: Say
) -> str | None:
    """With nobody to ask: take ledger and newest state from the mirror. None where the run is over and its last
    state is here; else what is here, in words. Raises MirrorError, DataError, ModelError, OutOfMemory."""
    copy.ledger()
    spec, genesis = copy.spec(), copy.genesis()
    router = founding.router_of(folder, spec)
    if router and isinstance(spec.paths, Paths) and not router.is_file():
        copy.router(router, spec.paths.count * ROUTER_LIMIT)
    layout = ground_here(
        spec, genesis.tokens, genesis.layout, genesis.start, folder, own, device, limits, say
    )[2]
    state = copy.newest(spec, layout)
    with contextlib.closing(Ledger(folder.ledger)) as ledger:
        closed, over = ledger.closed_rounds(), ledger.last_round(StateEntry) == spec.rounds.count
    if state and over and state.round == spec.rounds.count:
        folder.note({"over": m.ALL_DONE})
        return None
    return (
        f"From the mirror this machine has the ledger up to round {closed}"
        + (f" and the state after round {state.round}, checked" if state else ", and no state")
        + "; the same command goes on from there when the run is led again"
    )


async def terms(client: Client, invitation: Invitation) -> tuple[m.RunInfo, RunSpec]:
    """What this machine would take part in. Raises PeerStopped where it is another run."""
    info, _ = await client.ask(m.GetRunInfo(m.PROTOCOL, invitation.secret))
    spec = specs.parse(info.spec, "the run's specification")
    if spec.identity != invitation.run:
        raise PeerStopped(
            f"the coordinator serves run {spec.identity[:12]}, and the invitation is to run "
            f"{invitation.run[:12]}; ask the organiser for a new invitation"
        )
    return info, spec


async def _over(client: Client, invitation: Invitation) -> str:
    """What a newcomer hears of a run whose rounds are done."""
    found, _ = await client.ask(m.GetStatus(m.PROTOCOL, invitation.secret))
    loss = f", held-out loss {found.held_out:.3f} nats per token" if found.held_out else ""
    return (
        f"{OVER}, all {found.rounds} rounds are done{loss}. Model and report are in its folder on "
        "the organiser's machine"
    )
