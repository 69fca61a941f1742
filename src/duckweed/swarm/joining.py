"""Joining a run from another machine: its specification, data, state, and then a peer like any other."""

from collections.abc import Callable
from pathlib import Path

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
from duckweed.swarm.genesis import Ground
from duckweed.swarm.identity import load_or_create
from duckweed.swarm.invitation import Invitation
from duckweed.swarm.peer import Peer, PeerStopped, listening
from duckweed.swarm.survey import Survey, check_disk, measure_link, measure_speed, survey
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
    endpoint = await Endpoint.bind(identity, m.HEAD_LIMIT, listening(invitation.addresses))
    endpoint.pace.limit(limits.up_bytes, limits.down_bytes)
    try:
        link = await endpoint.connect(invitation.coordinator, list(invitation.addresses))
        worker, found = await _prepare(link, invitation, folder, data, device, limits, say)
        say(found.sentence())
        if dry_run:
            return DRY
        await _welcome(link, invitation)
        state = await _state(link, folder, worker.layout, say)
        link.close()
    finally:
        await endpoint.close()
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
    skeleton = models.skeleton(genesis.configuration(spec, ground))
    check_memory(skeleton, spec, device, 1, limits.memory_bytes)
    layout = models.layout_of(skeleton)
    if layout.digest() != terms.layout:
        raise PeerStopped(
            "this machine builds another model from the specification than the run has; "
            "install the same version of transformers as the organiser"
        )
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


async def _welcome(link: Link, invitation: Invitation) -> m.Welcome:
    answer, _ = await _ask(link, m.Join(m.PROTOCOL, invitation.secret))
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


async def _state(link: Link, folder: RunFolder, layout: Layout, say: Say) -> State:
    """The newest state that the coordinator has, unless a newer one lies here already."""
    answer, _ = await _ask(link, m.Snapshot())
    if not isinstance(answer, m.Saved):
        raise LinkError("the coordinator has no state to start from")
    here = folder.saved_rounds()
    if not here or here[-1] < answer.round:
        limit = 4 * (2 * layout.total + len(layout.names)) + (1 << 16)
        if answer.size > limit:
            raise PeerStopped(
                f"the state offered has {answer.size} bytes; at most {limit} make sense"
            )
        say(f"fetching the state after round {answer.round} ({answer.size / 1e6:,.1f} MB)")
        await _download(link, answer, folder.state(answer.round))
        here = [answer.round]
    return states.load(folder.state(here[-1]), layout.digest(), layout.total, len(layout.names))


async def _download(link: Link, saved: m.Saved, path: Path) -> None:
    """Piece by piece; a part that is already here is kept."""
    part = path.with_suffix(".download")
    with part.open("ab") as file:
        while (start := file.tell()) < saved.size:
            _, body = await _ask(link, m.Piece(saved.round, start), m.PIECE_LIMIT)
            if not body:
                raise LinkError("the coordinator no longer has this state; join again")
            file.write(body)
    part.replace(path)
