"""The beginning of a family, and of its paths: the router is fitted first, the paths begin where the common
start ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from duckweed import session
from duckweed.family import rules
from duckweed.family.folder import COMMON, FamilyFolder, name_of
from duckweed.learn.data import routed
from duckweed.learn.data.routed import Shares
from duckweed.learn.fit import ANY, Machine, Wish
from duckweed.round import export, founding
from duckweed.run import folder as folders
from duckweed.run import plugins, toml
from duckweed.run.folder import Destination, write_atomically
from duckweed.run.plugins import Plugin
from duckweed.run.spec import RunSpec, SpecError
from duckweed.session import Say, Session


@dataclass(frozen=True)
class Family:
    """A family that is ready to be trained on this machine."""

    folder: FamilyFolder
    spec: RunSpec
    common: Session
    """The common start; the paths are trained as it is."""

    def of_path(self, path: int) -> Session:
        """The run of a path that has begun."""
        first = self.common
        return session.reopen(
            self.folder.of_path(path), first.device, first.threads, (), first.wish
        )


def found(
    spec: RunSpec,
    place: Destination,
    machine: Machine,
    loaded: Sequence[Plugin],
    say: Say,
    warn: Say,
) -> Family:
    """A new family, whose folder is there once its router is fitted and its common start is founded. Arguments and
    errors as of `session.found`."""
    if spec.branch is not msgspec.UNSET:
        raise SpecError("section [branch] is written by duckweed: leave it out")
    paths, length = rules.paths_of(spec), spec.model.sequence
    with folders.beginning(place.runs, place.name) as part:
        family, first = FamilyFolder(part), rules.common(spec)
        torch.set_num_threads(machine.threads)
        dataset = founding.prepare(first, place.base, say).dataset
        say(f"fitting the router of {paths.count} paths")
        router = routed.fit(dataset, length, paths.count, paths.prefix, spec.seed)
        routed.check(routed.shares(dataset, router, length), rules.needed(spec), length)
        write_atomically(family.spec, toml.write(spec).encode())
        write_atomically(family.router, router.to_bytes())
        session.found(first, Destination(place.base, part, COMMON), machine, loaded, say, warn)
    return reopen(FamilyFolder(place.path), machine.device, machine.threads, (), machine.wish)


def reopen(
    folder: FamilyFolder,
    device: str,
    threads: int,
    files: Sequence[Path | str] = (),
    wish: Wish = ANY,
) -> Family:
    """A family that exists. Arguments and errors as of `session.reopen`."""
    first = session.reopen(folder.common, device, threads, files, wish)
    return Family(folder, folder.read_spec(), first)


def branch(family: Family, say: Say) -> None:
    """Begin those paths that have not begun, once the common start is done: with its weights, its outer momentum and
    its common scales. Inner moments are those of newcomers: fresh, and guided by that momentum. Raises FolderError,
    StateError, DataError."""
    waiting = [
        path
        for path in range(rules.paths_of(family.spec).count)
        if not family.folder.of_path(path).founded
    ]
    if not waiting:
        return
    first = family.common
    state = export.latest_state(first.folder, first.spec)
    export.check_agreed(first.folder, state)
    state = msgspec.structs.replace(state, round=0)
    layout, router = founding.layout(first.folder), family.folder.read_router()
    for path in waiting:
        spec = rules.of_path(family.spec, path, router.digest())
        say(f"beginning path {path}: the text that is routed to it")
        with folders.founding(family.folder.path, name_of(path)) as folder:
            plugins.remember(folder, plugins.load_of(first.folder))
            write_atomically(founding.router_of(folder, spec), router.to_bytes())  # type: ignore[arg-type]
            ground = founding.prepare(
                spec, first.ground.base, lambda text: None, family.folder.router
            )
            ground.buffers, ground.source = first.ground.buffers, first.ground.source
            founding.check_room(folder, spec, layout)
            seconds = first.folder.local().get("step_seconds", 0.0)
            founding.begin(spec, ground, layout, folder, state, seconds)


def shares(family: Family) -> Shares:
    """How many sequences each path is given. Raises FolderError."""
    dataset, length = family.common.ground.dataset, family.spec.model.sequence
    return routed.shares(dataset, family.folder.read_router(), length)
