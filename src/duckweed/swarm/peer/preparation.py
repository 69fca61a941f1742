"""What taking part needs but the state: text, model and learner on this machine, checked and measured."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3
from msgspec import UnsetType
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
from duckweed.round import founding
from duckweed.round.founding import Ground
from duckweed.round.worker import Worker
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.sections import Paths
from duckweed.run.spec import RunSpec
from duckweed.swarm.peer.sources import Sources
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import Client
from duckweed.swarm.protocol.errors import PeerStopped
from duckweed.volunteer.controls import Controls
from duckweed.volunteer.preflight import Survey, check_disk, measure_link, measure_speed
from duckweed.wire.codec import warm_up

Say = Callable[[str], None]
ROUTER_LIMIT = 1 << 18  # bytes of a router for each path


async def prepare(
    client: Client, info: m.RunInfo, spec: RunSpec, secret: str, folder: RunFolder,
    own: Sources, device: str, limits: Controls, say: Say,
) -> tuple[Worker, Survey]:  # fmt: skip
    """All that taking part needs but the state, checked and measured, before the run knows of it."""
    speed_of_link = await measure_link(client, secret)
    ground, skeleton, layout = ground_here(
        spec, info.tokens, info.layout, info.start, folder, own, device, limits, say
    )
    await asyncio.to_thread(warm_up, spec.wire)  # it compiles: the connection must live meanwhile
    answers = limits.answers_only
    say(f"measuring how fast this machine {'writes answers' if answers else 'trains'}")
    wish = None if answers else _wish(limits, device)
    # The layers may be compiled: the connection must live meanwhile.
    learner = await asyncio.to_thread(founding.learner, spec, ground, device, wish, say)
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
        Wish(limits.micro_batch, there, place.size, limits.shard, compile=limits.compile)
        if place
        else Wish(
            limits.micro_batch, there, main=main, offload=limits.offload, compile=limits.compile
        )
    )


def ground_here(
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
    """The router of the run's family, where the run names one that is not here yet. Raises LinkError, PeerStopped."""
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
