"""The beginning of a path, where its family's common start ended.

Its first entry follows from the common start to the last byte: from the specification, the router and the keys that
it names, from its text, and from the last state, which peers agreed on. So it is the same whoever begins the path,
and two machines that both do begin one run, and never two.
"""

from dataclasses import dataclass

import msgspec
from msgspec import UNSET

from duckweed.learn.data import routed
from duckweed.learn.data.router import Router
from duckweed.net.identity import Identity
from duckweed.round import export, founding
from duckweed.round.founding import Ground
from duckweed.run import family, plugins
from duckweed.run import spec as specs
from duckweed.run.folder import FolderError, RunFolder, write_atomically
from duckweed.run.layout import Layout
from duckweed.run.plugins import Plugin
from duckweed.run.spec import RunSpec
from duckweed.run.state import State


@dataclass(frozen=True)
class Start:
    """What the paths of a family begin from, on this machine."""

    family: RunSpec
    coordinators: tuple[str, ...]
    """Public keys of the first coordinators of the paths; none where no successors are named."""
    ground: Ground
    """The text of all paths."""
    layout: Layout
    router: Router
    state: State
    """The last weights, the outer momentum and the common scales."""
    seconds: float
    """Of an inner step."""
    loaded: tuple[Plugin, ...]


def start(common: RunFolder, ground: Ground, router: Router) -> Start:
    """Of a common start that is done. Raises FolderError, StateError, LedgerError, OSError, MergeError where its last
    state is not here."""
    spec, loaded = specs.load(common.spec), plugins.load_of(common)
    if not common.saved_rounds():
        raise FolderError(f"{common.path}: this machine has no state of the common start")
    state = export.latest_state(common, spec)
    if state.round < spec.schedule.rounds or export.agreed(common, state.round) is None:
        raise FolderError(f"{common.path}: the peers have not agreed on the last state yet")
    export.check_agreed(common, state)
    assert spec.branch is not UNSET
    return Start(
        family=family.whole(spec),
        coordinators=spec.branch.coordinators or (),
        ground=ground,
        layout=founding.layout(common),
        router=router,
        state=msgspec.structs.replace(state, round=0),
        seconds=common.local().get("step_seconds", 0.0),
        loaded=loaded,
    )


def start_of_heir(common: RunFolder) -> Start:
    """The same on the machine of a successor, which took part in the common start. Raises FolderError, DataError too."""
    spec = specs.load(common.spec)
    coordinators(spec)
    place = founding.router_of(common, spec)
    if place is None or not place.is_file():
        raise FolderError(
            f"{place}: the family's router is gone from this machine's disk; copy it from the folder of another peer "
            "of the common start, where it has the same name"
        )
    return start(common, founding.reopen(common, spec), Router.from_bytes(place.read_bytes()))


def coordinators(common: RunSpec) -> tuple[str, ...]:
    """Public keys of the first coordinators of the paths, as the common start names them for successors. Raises
    FolderError."""
    assert common.branch is not UNSET
    if not common.branch.coordinators:
        raise FolderError(
            "this family was begun by a version of duckweed in which the organiser's machine alone can begin the "
            "paths: they wait for `duckweed serve` there"
        )
    return common.branch.coordinators


def begin(of: Start, path: int, folder: RunFolder, identity: Identity) -> None:
    """Write the folder of a path that has not begun here. identity: of a machine that votes in it, which signs the first
    entry. Raises DataError, OSError."""
    spec = family.of_path(of.family, path, of.router.digest())
    plugins.remember(folder, of.loaded)
    place = founding.router_of(folder, spec)
    assert place is not None
    write_atomically(place, of.router.to_bytes())
    ground = Ground(
        of.ground.base,
        routed.prepare(
            of.ground.dataset, of.router, spec.model.sequence, path, founding.cache_folder()
        ),
        of.ground.buffers,
        of.ground.source,
    )
    founding.check_room(folder, spec, of.layout)
    folder.note({"step_seconds": of.seconds})
    coordinator = of.coordinators[path] if of.coordinators else identity.id
    founding.begin(spec, ground, of.layout, folder, of.state, identity, coordinator)
