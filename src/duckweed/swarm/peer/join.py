"""Joining a run from another machine: its specification, data, state, and then a peer like any other."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from duckweed.learn.data import dataset as datasets
from duckweed.learn.data.corpus import DataError
from duckweed.learn.memory import check_memory, needed, trim
from duckweed.learn.model import model as models
from duckweed.net.identity import Identity, load_or_create
from duckweed.net.timeouts import RETRY
from duckweed.net.transport import Endpoint, Link, LinkError
from duckweed.round import founding
from duckweed.round.founding import Ground
from duckweed.round.worker import Worker
from duckweed.run import spec as specs
from duckweed.run import state as states
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.spec import RunSpec
from duckweed.run.state import State
from duckweed.swarm.blobs.multi_fetch import Gather
from duckweed.swarm.blobs.peer_links import Donor, Neighbours
from duckweed.swarm.blobs.pieces import Parts
from duckweed.swarm.blobs.store import Library
from duckweed.swarm.peer.bootstrap import Arrival
from duckweed.swarm.peer.peer import Peer, PeerStopped
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.invitation import Invitation
from duckweed.volunteer import controls
from duckweed.volunteer.controls import Controls
from duckweed.volunteer.preflight import Survey, check_disk, measure_link, measure_speed, survey

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
    limits = controls.load(folder.peer(0))
    say("calling the coordinator")
    told = ""
    while True:
        try:
            return await _take_part(
                invitation, folder, identity, data, device, limits, say, dry_run
            )
        except LinkError as error:
            if not folder.saved_rounds():  # a newcomer learns at once that nobody answers
                raise
            if told != str(error):
                told = str(error)
                say(f"the coordinator cannot be reached ({error}); trying again. Ctrl-C ends this.")
            await asyncio.sleep(RETRY)


async def _take_part(
    invitation: Invitation, folder: RunFolder, identity: Identity, data: tuple[str, ...] | None,
    device: str, limits: Controls, say: Say, dry_run: bool,
) -> str:  # fmt: skip
    """Come to the run, and stay until it ends; returns the reason."""
    async with Arrival(invitation, folder, identity, limits, say) as arrival:
        link = await arrival.meet()
        worker, found = await _prepare(link, invitation, folder, data, device, limits, say)
        say(found.sentence())
        if dry_run:
            return DRY
        await _welcome(link, invitation)
        station = await arrival.settle(worker)
        state = await _state(link, arrival.endpoint, folder, worker.layout, say)
        link.close()
        if station:
            peer = Peer(
                identity, worker, state, folder.peer(0), folder, station.replica.in_charge_at(),
                invitation.secret, say, station,
            )  # fmt: skip
            return await arrival.stay(peer)
    meeting = (invitation.coordinator, list(invitation.addresses))
    secret = invitation.secret
    return await Peer(identity, worker, state, folder.peer(0), folder, meeting, secret, say).run()


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
    speed_of_link = await measure_link(ask, invitation.secret)
    ground = _data(spec, data, terms.tokens, say)
    skeleton = models.skeleton(founding.configuration(spec, ground))
    check_memory(skeleton, spec, device, 1, limits.memory_bytes)
    layout = models.layout_of(skeleton)
    if layout.digest() != terms.layout:
        raise PeerStopped(
            "this machine builds another model from the specification than the run has; "
            "install the same version of transformers as the organiser"
        )
    check_disk(folder.path, spec, layout, limits)
    say("measuring how fast this machine trains")
    learner = founding.learner(spec, ground, device)
    speed = await measure_speed(learner, spec)
    trim()
    found = survey(
        spec, layout, terms, speed_of_link, speed, needed(skeleton, spec), device, limits.threads
    )
    return Worker(spec, layout, learner), found


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


async def _welcome(link: Link, invitation: Invitation) -> m.Welcome:
    answer, _ = await _ask(link, m.Join(m.PROTOCOL, invitation.secret))
    if not isinstance(answer, m.Welcome):
        raise LinkError("the coordinator gave no proper answer to the first words")
    return answer


def _data(spec: RunSpec, paths: tuple[str, ...] | None, tokens: str, say: Say) -> Ground:
    """The run's data on this machine, the same to the last token. Raises DataError."""
    say("reading the data")
    wanted = msgspec.structs.replace(spec.data, path=paths) if paths else spec.data
    dataset = datasets.prepare(wanted, Path.cwd(), founding.cache_folder())
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
    return states.load(folder.state(round_), layout)


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
