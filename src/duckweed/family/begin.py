"""The beginning of a family, and of its paths: the router is fitted first, the paths begin where the common
start ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from duckweed import session
from duckweed.family.folder import COMMON, FamilyFolder, name_of
from duckweed.learn.data import routed
from duckweed.learn.data.routed import Shares
from duckweed.learn.data.router import Router
from duckweed.learn.fit import ANY, Machine, Wish
from duckweed.merge import trunk
from duckweed.net.identity import lend, load_or_create
from duckweed.round import branching, founding
from duckweed.run import family as rules
from duckweed.run import folder as folders
from duckweed.run import toml
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
        family = FamilyFolder(part)
        torch.set_num_threads(machine.threads)
        dataset = founding.prepare(rules.common(spec), place.base, say).dataset
        say(f"fitting the router of {paths.count} paths")
        router = routed.fit(dataset, length, paths.count, paths.prefix, spec.seed)
        routed.check(routed.shares(dataset, router, length), rules.needed(spec), length)
        write_atomically(family.spec, toml.write(spec).encode())
        write_atomically(family.router, router.to_bytes())
        first = _common(spec, router, family)
        session.found(first, Destination(place.base, part, COMMON), machine, loaded, say, warn)
        if not paths.apart:
            trunk.divided(paths, founding.layout(family.common))
        if kept := founding.router_of(family.common, first):
            write_atomically(kept, router.to_bytes())
    return reopen(FamilyFolder(place.path), machine.device, machine.threads, (), machine.wish)


def _common(spec: RunSpec, router: Router, family: FamilyFolder) -> RunSpec:
    """The common start. Where successors are named, it says what the paths will begin from, so that they can begin them:
    the router, and the keys of their first coordinators, which are on this machine."""
    if not spec.members.successors:
        return rules.common(spec)
    paths = range(rules.paths_of(spec).count)
    keys = tuple(load_or_create(family.key(path)).id for path in paths)
    return rules.common(spec, router.digest(), keys)


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
    first, router = family.common, family.folder.read_router()
    start = branching.start(first.folder, first.ground, router)
    for path in waiting:
        say(f"beginning path {path}: the text that is routed to it")
        with folders.founding(family.folder.path, name_of(path)) as folder:
            key = family.folder.key(path)
            if key.is_file():
                lend(key, folder.coordinator_key)
            branching.begin(start, path, folder, load_or_create(folder.coordinator_key))


def shares(family: Family) -> Shares:
    """How many sequences each path is given. Raises FolderError."""
    dataset, length = family.common.ground.dataset, family.spec.model.sequence
    return routed.shares(dataset, family.folder.read_router(), length)
