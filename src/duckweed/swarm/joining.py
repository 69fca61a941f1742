"""Joining a run from another machine: its specification, data, state, and then a peer like any other."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from duckweed.learn import dataset as datasets
from duckweed.learn import model as models
from duckweed.learn.corpus import DataError
from duckweed.learn.memory import check_memory, needed
from duckweed.learn.trainer import Trainer
from duckweed.run import spec as specs
from duckweed.run import state as states
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State
from duckweed.swarm import controls, genesis
from duckweed.swarm import messages as m
from duckweed.swarm.controls import Controls
from duckweed.swarm.gather import Gather
from duckweed.swarm.genesis import Ground
from duckweed.swarm.identity import Identity, load_or_create
from duckweed.swarm.invitation import Invitation
from duckweed.swarm.library import Library
from duckweed.swarm.neighbours import Donor, Neighbours
from duckweed.swarm.peer import Peer, PeerStopped, listening
from duckweed.swarm.pieces import Parts
from duckweed.swarm.station import Station
from duckweed.swarm.survey import Survey, check_disk, measure_link, measure_speed, survey
from duckweed.swarm.timing import RETRY
from duckweed.swarm.transport import Endpoint, Link, LinkError
from duckweed.swarm.work import Worker

Say = Callable[[str], None]
DRY = "nothing was begun"


async def join(
    invitation: Invitation,
    home: Path,
    data: tuple[str, ...] | None,
    device: str,
    say: Say,
    dry_run: bool = False,
) -> str:
    """Take part in the run until it ends; returns the reason. home: this peer's folder, which holds
    its key: the same folder, the same peer. dry_run: end after saying what it would do.

    Raises LinkError, DataError, ModelError, OutOfMemory, ControlsError, PeerStopped.
    """
    folder = RunFolder(home)
    for part in (folder.states, folder.blobs, folder.logs):
        part.mkdir(parents=True, exist_ok=True)
    identity = load_or_create(folder.peer(0) / "key")
    say("calling the coordinator")
    limits = controls.load(folder.peer(0))
    endpoint = await _listen(identity, folder, invitation)
    endpoint.pace.limit(limits.up_bytes, limits.down_bytes)
    first = (invitation.coordinator, list(invitation.addresses))
    station = Station(endpoint, identity, folder, first, partial(_told, folder, say), say)
    tasks = [asyncio.create_task(station.serve())]
    try:
        if (known := _begun(folder)) and station.replica.seat:
            station.begin(*known)
            tasks.append(asyncio.create_task(station.run()))
        meeting, link = await _meet(station, say)
        worker, found = await _prepare(link, invitation, folder, data, device, limits, say)
        say(found.sentence())
        if dry_run:
            return DRY
        await _welcome(link, invitation, endpoint)
        await _copy(station, invitation)
        station.begin(worker.spec, worker.layout)
        if station.replica.seat and len(tasks) == 1:
            say("this machine keeps the ledger and may be put in charge: it is named as a successor")
            tasks.append(asyncio.create_task(station.run()))
        state = await _state(link, endpoint, folder, worker.layout, say)
        link.close()
        home, secret = folder.peer(0), invitation.secret
        peer = Peer(identity, worker, state, home, folder, meeting, secret, say, station)
        return await _take_part(peer, station, tasks)
    finally:
        for task in tasks:
            task.cancel()
        station.replica.close()
        await endpoint.close()


async def _take_part(peer: Peer, station: Station, tasks: list[asyncio.Task]) -> str:
    """Be a peer; whoever coordinates the run stays until the others have heard of its end."""
    working = asyncio.create_task(peer.run())
    keeping = tasks[1:]
    try:
        await asyncio.wait([working, *keeping], return_when=asyncio.FIRST_COMPLETED)
        for task in keeping:  # a full disk, say
            if task.done():
                task.result()
        reason = await working
    finally:
        working.cancel()
    if station.coordinator:
        await asyncio.wait(keeping)
    with contextlib.suppress(LinkError):
        await station.copy()
    return reason


async def _listen(identity: Identity, folder: RunFolder, invitation: Invitation) -> Endpoint:
    """Listen, at the port of the last time if that is free: others may know this machine by it."""
    spec = specs.load(folder.spec) if folder.spec.exists() else None
    address = listening(invitation.addresses, spec.members.successors if spec else ())
    file = folder.peer(0) / "port"
    with contextlib.suppress(FileNotFoundError, ValueError, LinkError):
        last = f"{address.rpartition(':')[0]}:{int(file.read_text('ascii'))}"
        return await Endpoint.bind(identity, m.HEAD_LIMIT, last)
    endpoint = await Endpoint.bind(identity, m.HEAD_LIMIT, address)
    found = next(x for x in endpoint.bound if not x.startswith("["))
    write_atomically(file, found.rpartition(":")[2].encode())
    return endpoint


def _begun(folder: RunFolder) -> tuple[RunSpec, Layout] | None:
    """What this machine knows of the run from before."""
    try:
        return specs.load(folder.spec), genesis.layout(folder)
    except (FileNotFoundError, specs.SpecError):
        return None


async def _meet(station: Station, say: Say) -> tuple[tuple[str, list[str]], Any]:
    """Who is in charge, and a link to it. Where others could be put in charge, they are waited for.

    Raises LinkError.
    """
    replica, told = station.replica, False
    charge = replica.ledger.charge
    patience = charge.absence * (len(charge.voters) + 1) if charge else 0.0
    closes = time.monotonic() + patience
    while True:
        key = replica.known.key
        try:
            link = await station.connect(key)
            head, _ = await link.ask(m.encode(m.Who())) if charge else (b"", b"")
            answer = m.answer(head) if head else None
            if isinstance(answer, m.InCharge) and answer.key != key:
                replica.note(answer.term, answer.key, answer.at)
                link.close()
                raise LinkError(f"{answer.key[:10]} is in charge, not {key[:10]}")
            return (key, replica.known.at.get(key, [])), link
        except LinkError as error:
            if time.monotonic() > closes:
                raise
            if not told:
                say(f"{error}; looking for who is in charge of the run")
                told = True
            await replica.look_round()
            await asyncio.sleep(RETRY)


async def _copy(station: Station, invitation: Invitation) -> None:
    """Get a copy of the ledger, and make sure that it is that of the run."""
    await station.copy()
    while station.replica.ledger.charge is None:
        await asyncio.sleep(RETRY)
        await station.copy()
    charge = station.replica.ledger.charge
    if charge.run != invitation.run or invitation.coordinator not in charge.voters:
        raise PeerStopped("the coordinator gave the ledger of another run")


def _told(folder: RunFolder, say: Say, event: dict[str, Any]) -> None:
    """What happens while this machine coordinates."""
    folder.record(**event)
    if event["event"] == "round":
        say(f"round {event['round']} closed with {len(event['accepted'])} peers")
    elif event["event"] == "left":
        say(f"peer {event['peer']} left: {event['reason']}")


async def _prepare(
    link: Link, invitation: Invitation, folder: RunFolder, data: tuple[str, ...] | None,
    device: str, limits: Controls, say: Say,
) -> tuple[Worker, Survey]:  # fmt: skip
    """All that taking part needs but the state, checked and measured, before the run knows of it."""

    async def ask(question: m.Message, body: bytes, limit: int) -> tuple[m.Answer, bytes]:
        return await _ask(link, question, limit, body)

    terms = await _terms(link, invitation)
    spec = specs.parse(terms.spec, "the run's specification")
    if spec.identity != invitation.run:
        raise PeerStopped("the coordinator serves another run than the invitation names")
    write_atomically(folder.spec, terms.spec.encode())
    if not folder.secret.exists():  # of this machine, should it ever be in charge
        folder.secret.touch(mode=0o600)
        folder.secret.write_text(secrets.token_urlsafe(24), "ascii")
    speed_of_link = await measure_link(ask, invitation.secret)
    ground = _data(spec, data, terms.tokens, say)
    skeleton = models.skeleton(genesis.configuration(spec, ground))
    check_memory(skeleton, spec, device, 1, limits.memory_bytes)
    layout = models.layout_of(skeleton)
    if layout.digest() != terms.layout:
        raise PeerStopped(
            "this machine builds another model from the specification than the run has; "
            "install the same version of transformers as the organiser"
        )
    write_atomically(folder.path / "layout.json", msgspec.json.encode(layout))
    check_disk(folder.path, layout, limits)
    say("measuring how fast this machine trains")
    model = models.build(genesis.configuration(spec, ground), device)
    trainer = Trainer(model, spec.inner, spec.total_steps, device)
    speed = await measure_speed(trainer, ground.dataset, spec)
    found = survey(
        spec, layout, terms, speed_of_link, speed, needed(skeleton, spec), device, limits.threads
    )
    return Worker(spec, layout, ground.dataset, trainer), found


async def _ask(
    link: Link, question: m.Message, body_limit: int = 0, body: bytes = b""
) -> tuple[m.Answer, bytes]:
    head, answered = await link.ask(m.encode(question), body, body_limit=body_limit)
    answer = m.answer(head)
    if isinstance(answer, m.Refused):
        raise PeerStopped(f"the coordinator refused: {answer.reason}")
    return answer, answered


async def _terms(link: Link, invitation: Invitation) -> m.Terms:
    answer, _ = await _ask(link, m.Enquire(m.PROTOCOL, invitation.secret))
    if not isinstance(answer, m.Terms):
        raise LinkError("the coordinator gave no proper answer to the first words")
    return answer


async def _welcome(link: Link, invitation: Invitation, endpoint: Endpoint) -> m.Welcome:
    words = m.Join(m.PROTOCOL, invitation.secret, endpoint.reachable)
    answer, _ = await _ask(link, words)
    if not isinstance(answer, m.Welcome):
        raise LinkError("the coordinator gave no proper answer to the first words")
    return answer


def _data(spec: RunSpec, paths: tuple[str, ...] | None, tokens: str, say: Say) -> Ground:
    """The run's data on this machine, the same to the last token. Raises DataError."""
    say("reading the data")
    wanted = msgspec.structs.replace(spec.data, path=paths) if paths else spec.data
    dataset = datasets.prepare(wanted, Path.cwd(), genesis.cache_folder())
    if dataset.manifest.tokens_hash != tokens:
        raise DataError(
            f"the text at {', '.join(wanted.paths)} on this machine is not the text of the run"
            + (
                "; the standard library differs between Python versions: use the organiser's"
                if wanted.path == "stdlib"
                else "; get the same files and name them with --data"
            )
        )
    return Ground(Path.cwd(), dataset)


async def _state(
    link: Link, endpoint: Endpoint, folder: RunFolder, layout: Layout, say: Say
) -> State:
    """The newest state that coordinator and peers can give, unless a newer one lies here already."""

    async def ask(question: m.Message, limit: int) -> tuple[m.Answer, bytes]:
        head, body = await link.ask(m.encode(question), body_limit=limit)
        return m.answer(head), body

    here = folder.saved_rounds()
    neighbours = Neighbours(endpoint, Library(folder), ask)
    try:
        donated, _ = await _ask(link, m.Donors())
        offered, _ = await ask(m.Snapshot(), 0)
        assert isinstance(donated, m.Donated)
        coordinator = offered if isinstance(offered, m.Saved) else None
        donors = await neighbours.state(donated, coordinator)
        if donors and (not here or here[-1] < donors[0].saved.round):
            wanted = donors[0].saved
            await _download(donors, folder, layout, say)
            state = _load(folder, wanted.round, layout)
            if state.hash() != donated.agreed[wanted.round]:
                folder.state(wanted.round).unlink()
                raise PeerStopped(
                    "the state that came is not the one that the run agreed on; join again"
                )
            return state
    finally:
        neighbours.close()
    if not here:
        raise LinkError("nobody has a state to start from; is a peer beside the coordinator?")
    return _load(folder, here[-1], layout)


def _load(folder: RunFolder, round_: int, layout: Layout) -> State:
    return states.load(folder.state(round_), layout.digest(), layout.total, len(layout.names))


async def _download(donors: list[Donor], folder: RunFolder, layout: Layout, say: Say) -> None:
    """From all donors at once; what a broken transfer left is kept."""
    wanted = donors[0].saved
    limit = 4 * (2 * layout.total + len(layout.names)) + (1 << 16)
    if wanted.size > limit:
        raise PeerStopped(f"the state offered has {wanted.size} bytes; at most {limit} make sense")
    several = f" from {len(donors)} machines" if len(donors) > 1 else ""
    say(f"fetching the state after round {wanted.round} ({wanted.size / 1e6:,.1f} MB){several}")
    path = folder.state(wanted.round)
    part = path.with_suffix(".download")
    parts = Parts(wanted.size, wanted.pieces, part)
    first = [n % len(donors) for n in range(len(parts.hashes))]
    if not parts.whole:
        await Gather(parts, [x.ask for x in donors], first).run()
    part.replace(path)
