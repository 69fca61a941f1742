"""The newest state that the run has agreed on, fetched from whoever has it."""

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from duckweed.net import clock
from duckweed.net.carrier import Endpoint
from duckweed.net.timeouts import FETCH_TOLD
from duckweed.net.transport import LinkError
from duckweed.run import state as states
from duckweed.run.folder import RunFolder
from duckweed.run.layout import Layout
from duckweed.run.state import State, StateError
from duckweed.run.units import show_time
from duckweed.swarm.blobs.multi_fetch import MultiFetch
from duckweed.swarm.blobs.peer_links import COORDINATOR, Donor, PeerLinks
from duckweed.swarm.blobs.pieces import Parts
from duckweed.swarm.blobs.store import Store
from duckweed.swarm.protocol import messages as m
from duckweed.swarm.protocol.client import Asks, QuestionRefused

Say = Callable[[str], None]


async def newest(
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
    """The newest state of one machine, which is kept here where it is the agreed one. agreed: as of `newest`. Raises
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
        telling = asyncio.create_task(tell(parts, say))
        try:
            await work.run()
        finally:
            telling.cancel()
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


async def tell(parts: Parts, say: Say) -> None:
    """Say now and then how much of a long transfer is here, and how long the rest will take, until it is cancelled."""
    began, first = clock.now(), len(parts.here)
    while not parts.whole:
        await asyncio.sleep(FETCH_TOLD)
        here, passed = len(parts.here), clock.now() - began
        left = (len(parts.hashes) - here) * passed / max(1, here - first)
        how = f"about {show_time(left)} left" if here > first else "nothing came so far"
        say(f"fetching the state: {here / len(parts.hashes):.0%} is here, {how}")
