"""Joining a run from another machine: its specification, data, state, and then a peer like any other."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec
from blake3 import blake3
from msgspec import UNSET, UnsetType
from torch import nn

from duckweed.learn import registry
from duckweed.learn.data.corpus import DataError
from duckweed.learn.fit import Wish
from duckweed.learn.memory import (
    OutOfMemory,
    check_memory,
    check_writing,
    in_main,
    instead,
    room,
    trim,
    ways,
    whole,
    writing,
)
from duckweed.learn.model import model as models
from duckweed.learn.site.place import Place
from duckweed.ledger.entries import StateEntry
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.carrier import Endpoint
from duckweed.net.identity import Identity, load_or_create
from duckweed.net.timeouts import RETRY
from duckweed.net.transport import LinkError
from duckweed.round import founding
from duckweed.round.founding import Ground
from duckweed.round.worker import Worker
from duckweed.run import spec as specs
from duckweed.run import state as states
from duckweed.run.folder import RunFolder, private, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.sections import Paths
from duckweed.run.spec import RunSpec
from duckweed.run.state import State, StateError
from duckweed.swarm.blobs.mirror import Mirror, MirrorError
from duckweed.swarm.blobs.multi_fetch import MultiFetch
from duckweed.swarm.blobs.peer_links import COORDINATOR, Donor, PeerLinks
from duckweed.swarm.blobs.pieces import Parts
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.peer.bootstrap import Bootstrap
from duckweed.swarm.peer.from_mirror import FromMirror
from duckweed.swarm.peer.peer import Peer
from duckweed.swarm.peer.sources import Sources
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import AnswerError, Asks, Client, NotLeader, QuestionRefused
from duckweed.swarm.protocol.errors import PeerStopped
from duckweed.swarm.protocol.invitation import Invitation
from duckweed.volunteer import controls
from duckweed.volunteer.controls import Controls
from duckweed.volunteer.preflight import Survey, check_disk, measure_link, measure_speed
from duckweed.wire.codec import warm_up

Say = Callable[[str], None]
DRY = "nothing was begun"
OVER = "the run is over"
ROUTER_LIMIT = 1 << 18  # bytes of a router for each path
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
            final = isinstance(error, AnswerError) and not isinstance(error, NotLeader)
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
        client = await bootstrap.meet()
        info, spec = await terms(client, invitation)
        if limits.answers_only and spec.no_writers:
            raise PeerStopped(
                f"--answers-only: this run takes nobody who only writes answers: {spec.no_writers}. To train: --train"
            )
        if info.round >= spec.schedule.rounds and not folder.saved_rounds():
            if spec.paths is UNSET or spec.path is not None:
                return await _over(client, invitation)
            write_atomically(folder.spec, info.spec.encode())
            return m.ALL_DONE  # of the common start: the paths are what there is to train
        write_atomically(folder.spec, info.spec.encode())
        if spec.path is not None:
            await fetch_router(client, spec, invitation.secret, folder)
        worker, found = await _prepare(
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
            state = await _state(client, links, folder, worker.layout, agreed, say, behind)
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
    layout = _ground(
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


async def _prepare(
    client: Client, info: m.RunInfo, spec: RunSpec, secret: str, folder: RunFolder,
    own: Sources, device: str, limits: Controls, say: Say,
) -> tuple[Worker, Survey]:  # fmt: skip
    """All that taking part needs but the state, checked and measured, before the run knows of it."""
    speed_of_link = await measure_link(client, secret)
    ground, skeleton, layout = _ground(
        spec, info.tokens, info.layout, info.start, folder, own, device, limits, say
    )
    await asyncio.to_thread(warm_up, spec.wire)  # it compiles: the connection must live meanwhile
    answers = limits.answers_only
    say(f"measuring how fast this machine {'writes answers' if answers else 'trains'}")
    wish = None if answers else _wish(limits, device)
    learner = founding.learner(spec, ground, device, wish, say)
    speed = await measure_speed(learner, spec, answers)
    trim()
    memory, main = writing(skeleton, spec, device), 0
    if wish:
        way = ways(skeleton, spec, device, wish)[0]
        memory = whole(skeleton, spec, device, way)
        main = in_main(skeleton, spec) if way.offload else 0
    found = Survey(
        spec,
        layout,
        info,
        speed_of_link,
        speed,
        memory,
        device,
        limits.threads,
        wish.processes if wish else 1,
        main,
        answers,
    )
    worker = Worker(spec, layout, learner)
    worker.pace = spec.tokens_per_step / speed
    return worker, found


def _wish(limits: Controls, device: str) -> Wish:
    """Of the memory of this process. Those of a site that are on one machine share its main memory."""
    place = Place.here()
    beside = place.beside if place and device == "cpu" else 1
    there = room(device, beside, limits.memory_bytes)
    main = room("cpu", 1, limits.memory_bytes)
    return (
        Wish(limits.micro_batch, there, place.size, limits.shard)
        if place
        else Wish(limits.micro_batch, there, main=main, offload=limits.offload)
    )


def _ground(
    spec: RunSpec, tokens: str, layout_digest: str, start: str | UnsetType, folder: RunFolder,
    own: Sources, device: str, limits: Controls, say: Say,
) -> tuple[Ground, nn.Module, Layout]:  # fmt: skip
    """The run's data and model on this machine, if there is room for them; noted in the folder. tokens,
    layout_digest, start: what the run has. Raises DataError, ModelError, OutOfMemory, PeerStopped."""
    router = founding.router_of(folder, spec)
    ground = _data(own.of(spec, Path.cwd(), limits.disk_bytes), tokens, say, router)
    skeleton = models.skeleton(founding.configuration(spec, ground))
    place = Place.here()
    beside = place.beside if place and device == "cpu" else 1
    if limits.answers_only:
        check_writing(skeleton, spec, device, limits.memory_bytes)
    else:
        try:
            check_memory(skeleton, spec, device, beside, limits.memory_bytes, _wish(limits, device))
        except OutOfMemory as error:
            other = instead(skeleton, spec, device, limits.memory_bytes)
            raise OutOfMemory(f"{error}{other}") from error
    layout = founding.layout_here(spec, ground, skeleton)
    if layout.digest() != layout_digest:
        raise PeerStopped(
            "this machine builds another model from the specification than the run has; "
            "install the same version of transformers as the organiser"
        )
    ground.start = start
    check_disk(folder.path, spec, layout, limits)
    founding.keep(folder, ground, layout)
    return ground, skeleton, layout


async def fetch_router(client: Client, spec: RunSpec, secret: str, folder: RunFolder) -> None:
    """The router of a path's family, where it is not here yet. Raises LinkError, PeerStopped."""
    place = founding.router_of(folder, spec)
    if place is None or place.is_file() or not isinstance(spec.paths, Paths):
        return
    limit = spec.paths.count * ROUTER_LIMIT
    _, data = await client.ask(m.GetRouter(m.PROTOCOL, secret), body_limit=limit)
    if blake3(data).hexdigest() != place.name:
        raise PeerStopped(
            f"the coordinator gave another router than the run's ({place.name[:12]}), by which this machine "
            "would train on other text; ask the organiser"
        )
    write_atomically(place, data)


def _data(spec: RunSpec, tokens: str, say: Say, router: Path | None = None) -> Ground:
    """The run's data on this machine, the same to the last token. router: file of that of a path's family. Raises
    DataError."""
    say("reading the data")
    wanted = spec.data
    dataset = registry.prepare(spec, Path.cwd(), founding.cache_folder(), router=router)
    say(f"data: {dataset.manifest.told()}; tokenizer: {wanted.tokenizer}")
    if dataset.manifest.tokens_hash != tokens:
        raise DataError(
            f"the text at {', '.join(wanted.paths)} on this machine is not the text of the run"
            + (
                "; the standard library differs between Python versions: use the organiser's"
                if wanted.path == "stdlib"
                else "; get the same files and name them with --data"
            )
        )
    return Ground(Path.cwd(), dataset, source=spec.model.source)


async def _state(
    client: Asks,
    links: PeerLinks,
    folder: RunFolder,
    layout: Layout,
    agreed: dict[int, str] | None,
    say: Say,
    behind: int = 0,
) -> State:
    """The newest state that coordinator and peers can give, unless a newer one is here already.

    agreed: round -> hash of the state that it begins from, as the ledger says; None: as the coordinator
    says, where this machine has no ledger. behind: rounds that the state here may be behind what others offer,
    because it comes from a mirror. A state that does not have the hash is not kept, and those
    who offered it are not asked again. Raises LinkError, PeerStopped.
    """
    listed, _ = await client.ask(m.GetDonors())
    if agreed is not None:
        listed = msgspec.structs.replace(listed, agreed=agreed)
    own = _own(folder, layout, listed.agreed, say)
    offered: m.SavedState | None = None
    with contextlib.suppress(QuestionRefused):  # it keeps none; peers may
        offered, _ = await client.ask(m.GetSavedState())
    gone: LinkError | None = None
    for donors in await links.donors(listed, offered):
        wanted = donors[0].saved
        if own and own.round + behind >= wanted.round:
            continue
        try:
            return await _download(donors, folder, layout, listed.agreed[wanted.round], links, say)
        except NotAgreed as error:
            say(f"{error}; asking others")
            links.distrust(x.key for x in donors if x.key != COORDINATOR)
        except LinkError as error:
            gone = error
    if own:
        return own
    raise gone or LinkError(
        "nobody gives a state that the run has agreed on; is an honest peer beside the coordinator?"
    )


async def state_of(
    asked: Asks,
    endpoint: Endpoint,
    folder: RunFolder,
    layout: Layout,
    agreed: dict[int, str],
    say: Say,
) -> State:
    """The newest state of one machine, which is kept here where it is the agreed one. agreed: as of `_state`. Raises
    LinkError, NotAgreed."""
    offered, _ = await asked.ask(m.GetSavedState())
    links = PeerLinks(endpoint, Store(folder), asked)
    try:
        for donors in await links.donors(m.DonorList(agreed, []), offered):
            wanted = agreed[donors[0].saved.round]
            return await _download(donors, folder, layout, wanted, links, say)
    finally:
        links.close()
    raise NotAgreed(
        f"the state after round {offered.round} is not one that this machine knows of yet"
    )


def _own(folder: RunFolder, layout: Layout, agreed: dict[int, str], say: Say) -> State | None:
    """The newest state of this machine that is whole and, as far as is known, the agreed one."""
    for round_ in reversed(folder.saved_rounds()):
        try:
            state = states.load(folder.state(round_), layout)
        except StateError as error:
            say(f"{error}; it is not used")
            continue
        if agreed.get(round_, found := state.hash()) == found:
            return state
        say(f"{folder.state(round_)} is not the state that the run agreed on; it is not used")
    return None


class NotAgreed(ValueError):
    """What was offered as a state is not the one that the run agreed on."""


async def _download(
    donors: list[Donor], folder: RunFolder, layout: Layout, agreed: str, links: PeerLinks, say: Say
) -> State:
    """From all donors at once; what a broken transfer left is kept, and nothing that is wrong. agreed:
    hash of the state. Raises NotAgreed, LinkError."""
    wanted = donors[0].saved
    who = ", ".join(f"peer {x.key[:10]}" if x.key else "the coordinator" for x in donors)
    limit = states.file_limit(layout)
    if wanted.size > limit:
        raise NotAgreed(
            f"the state offered by {who} has {wanted.size} bytes, and one of this model has at most {limit}"
        )
    several = f" from {len(donors)} machines" if len(donors) > 1 else ""
    say(f"fetching the state after round {wanted.round} ({wanted.size / 1e6:,.1f} MB){several}")
    path = folder.state(wanted.round)
    part = path.with_suffix(".download")
    try:
        parts = Parts(wanted.size, wanted.pieces, part)
    except ValueError as error:
        raise NotAgreed(f"what {who} offered is no state: {error}") from error
    first = [n % len(donors) for n in range(len(parts.hashes))]
    if not parts.whole:
        work = MultiFetch(parts, [x.ask for x in donors], first)
        try:
            await work.run()
        finally:
            links.distrust(donors[n].key for n in work.liars if donors[n].key != COORDINATOR)
    try:
        state = states.load(part, layout)
        if state.hash() != agreed:
            raise StateError("its hash is another one")
    except StateError as error:
        part.unlink()
        raise NotAgreed(
            f"what {who} gave is not the state that the run agreed on after round {wanted.round}"
        ) from error
    part.replace(path)
    return state
