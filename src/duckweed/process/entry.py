"""The processes of a run on this machine: `python -m duckweed.process.entry coordinator|peer ...`.

Each writes events as JSON lines to its standard output for the process that started it.
"""

import argparse
import asyncio
import contextlib
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from duckweed.learn.fit import Wish, read_micro
from duckweed.ledger.entries import StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import load_or_create, verify
from duckweed.net.timeouts import HANDOVER, PATHS_NOTE, PROCESS_GRACE, VIEW, within
from duckweed.process import environment, logs
from duckweed.process.child import ExitCode
from duckweed.run import events, plugins
from duckweed.run import spec as specs
from duckweed.run.error_words import EXPECTED, words
from duckweed.run.events import (
    Event,
    Following,
    PeerEnded,
    PeerProgress,
    ProcessFailed,
    Progress,
    Said,
    Serving,
)
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.lock import Busy, alone

if TYPE_CHECKING:
    from duckweed.round.open_round import Member
    from duckweed.swarm.node.node import Node

log = logging.getLogger(__name__)
Say = Callable[[str], None]
SHOWN = 200  # peers of which it is told a second


def tell(event: Event) -> None:
    """To the process that started this one."""
    sys.stdout.buffer.write(events.encode(event))
    sys.stdout.buffer.flush()


async def coordinate(
    folder: RunFolder, address: str, relays: list[str], relay_port: int | None, stays: bool
) -> None:
    """Serve the run until its rounds are done or SIGTERM comes. relays: URLs; relay_port: TCP port of
    one beside the coordinator (0: any), None: there is none; stays: answer until SIGTERM, though the
    rounds are done."""
    import msgspec

    from duckweed.net.relay import Relay
    from duckweed.net.transport import Endpoint, LinkError, is_relay
    from duckweed.run.layout import Layout
    from duckweed.swarm.node.node import Node
    from duckweed.swarm.protocol import messages as m

    identity = load_or_create(folder.coordinator_key)
    layout = msgspec.json.decode((folder.path / "layout.json").read_bytes(), type=Layout)

    def record(event: Event) -> None:
        try:
            folder.record(event)
            tell(event)
        except (
            ValueError
        ):  # a number in it is not finite: a fault of ours, and no reason to end a run
            log.exception("an event could not be written down: %r", event)

    def say(text: str) -> None:
        tell(Said(text))

    ledger = Ledger(folder.ledger, identity.sign, folder.dropped)
    ledger.verify(verify)
    relay = None
    if relay_port is not None:
        relay = Relay(lambda key: key == identity.id or node.rate_limits.knows(key))
        try:
            relay_port, at = await relay.start(address.rpartition(":")[0], relay_port)
        except LinkError as error:
            raise LinkError(
                f"{error}; choose another --listen port (the relay takes the next one), or --no-relay"
            ) from error
        relays = [at, *relays]
    endpoint = await Endpoint.bind(identity, m.HEAD_LIMIT, address, relays)
    first: tuple[str, list[str]] = (identity.id, [])
    node = Node(
        endpoint, identity, folder, ledger, specs.load(folder.spec), layout, first, record, say
    )
    node.stays = stays
    over = ledger.last_round(StateEntry) == node.spec.schedule.rounds
    environment.on_stop(lambda: asyncio.ensure_future(node.stop("stopped")))
    direct = [x for x in endpoint.addresses if not is_relay(x)]
    tell(Serving(identity.id, endpoint.bound, direct, relay_port))
    serving = asyncio.create_task(node.serve())
    catching_up = asyncio.create_task(_catch_up(node, say))
    beside = [asyncio.create_task(_show(node)), catching_up]
    try:
        await node.run()
        catching_up.cancel()
        await asyncio.wait([catching_up])
        if node.over == m.ALL_DONE:  # it may have come back for the last rounds only
            with contextlib.suppress(TimeoutError):
                await within(HANDOVER, _complete(node, say))
        if not over:  # that is told once, of the run itself
            folder.record(node.account(relay.bytes if relay else 0))
    finally:
        for task in (serving, *beside):
            task.cancel()
        await endpoint.close()
        if relay:
            await relay.close()
        ledger.close()


async def _show(node: "Node") -> None:
    """What each peer is doing, twice a second, of many less often, for whoever watches; and, while
    another coordinates the run, that this machine follows."""
    while True:
        coordinator = node.coordinator
        if coordinator is None:
            tell(Following())
            await asyncio.sleep(VIEW)
            continue
        peers = [
            PeerProgress(x.index, _doing(x), x.step, x.loss if math.isfinite(x.loss) else None)
            for x in coordinator.admission.by_index.values()
        ]
        rounds = coordinator.rounds
        tell(Progress(rounds.number, peers, coordinator.traffic.moved(), rounds.waiting_for()))
        await asyncio.sleep(max(VIEW, len(peers) / SHOWN))


async def _catch_up(node: "Node", say: Say) -> None:
    """While another machine leads, see again and again that the newest state can be had here."""
    while True:
        await _complete(node, say)
        await asyncio.sleep(PATHS_NOTE)


async def _complete(node: "Node", say: Say) -> None:
    """See that the newest state can be had here, while this machine does not lead: it may have been away for so long that it
    does not get all updates that it missed."""
    from duckweed.net.framing import LinkError
    from duckweed.round.history import complete

    try:
        if node.coordinator is None and not await asyncio.to_thread(complete, node.folder):
            from duckweed.swarm.peer.keeper import fetch_state  # it loads PyTorch

            await fetch_state(node.folder, node, say)
    except (LinkError, OSError, ValueError) as error:
        log.info("the newest state is not here: %s", error)


def _doing(member: "Member") -> str:
    """In words; of one that was here before this coordinator was started and has not come again, that it is gone."""
    return member.doing if member.here or member.doing != "starting" else "gone"


async def take_part(
    folder: RunFolder,
    slot: int,
    coordinator: tuple[str, list[str]],
    device: str,
    wish: Wish,
    measure: bool,
) -> str:
    """Be peer number `slot` of this machine until the run ends; returns the reason. wish: what is asked of this
    peer. measure: whether the coordinator is to know how fast
    this peer is, since others will take part from elsewhere."""
    import torch

    from duckweed.learn import memory
    from duckweed.round import founding
    from duckweed.round.worker import Worker
    from duckweed.run import state as states
    from duckweed.swarm.peer.peer import Peer
    from duckweed.volunteer.preflight import measure_speed

    memory.one_heap()
    torch.set_num_threads(int(os.environ.get("DUCKWEED_THREADS", "1")))
    spec = specs.load(folder.spec)
    ground, layout = founding.reopen(folder, spec), founding.layout(folder)
    state = states.load(folder.start(spec.rounds.overlap > 0), layout)

    def say(text: str) -> None:
        tell(Said(text, slot))

    learner = founding.learner(spec, ground, device, wish, say)
    worker = Worker(spec, layout, learner)
    writes = spec.only_writes(slot)
    if measure:
        worker.pace = spec.tokens_per_step / await measure_speed(learner, spec, writes)
    home = folder.peer(slot)
    identity = load_or_create(home / "key")
    secret = folder.read_secret()
    return await Peer(
        identity, worker, state, home, folder, coordinator, secret, say, writes=writes
    ).run()


def _reason(error: Exception, folder: RunFolder) -> str:
    """Why this process failed."""
    if isinstance(error, Busy):
        return f"{folder.path} is being trained by another process already"
    more = "" if isinstance(error, EXPECTED) else f"; see {folder.logs}"
    return words(error, folder.path, "go on with --resume") + more


def main() -> int:
    parser = argparse.ArgumentParser(prog="duckweed.process.entry")
    parser.add_argument("role", choices=["coordinator", "peer"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slot", type=int, default=0)
    parser.add_argument("--coordinator", default="")
    parser.add_argument("--addresses", nargs="*", default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--micro", default="auto")
    parser.add_argument("--room", type=int)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--address", default="127.0.0.1:0")
    parser.add_argument("--relays", nargs="*", default=[])
    parser.add_argument("--relay-port", type=int)
    parser.add_argument("--stays", action="store_true")
    given = parser.parse_args()
    folder = RunFolder(given.folder)
    pid = folder.path / f"{given.role}{given.slot if given.role == 'peer' else ''}.pid"
    environment.end_with_parent()
    environment.allow_files()
    try:
        logs.configure()
        write_atomically(pid, str(os.getpid()).encode())
        plugins.load_of(folder)
        if given.role == "coordinator":
            # One whose parent was killed may still be ending.
            lock = folder.path / "coordinator.lock"
            with alone(lock, wait=False, patience=PROCESS_GRACE):
                way = given.address, given.relays, given.relay_port
                asyncio.run(coordinate(folder, *way, given.stays))
        else:
            meeting = (given.coordinator, given.addresses)
            wish = Wish(read_micro(given.micro), given.room, compile=given.compile)
            reason = asyncio.run(
                take_part(
                    folder,
                    given.slot,
                    meeting,
                    given.device,
                    wish,
                    given.measure,
                )
            )
            tell(PeerEnded(given.slot, reason))
    except Exception as error:
        # The process that started this one shows the reason; the log has the whole story.
        tell(ProcessFailed(given.role, given.slot, _reason(error, folder)))
        with contextlib.suppress(OSError):  # on a full disk there is no room for the log
            traceback.print_exc()
        return ExitCode.FAILED
    finally:
        with contextlib.suppress(OSError):
            pid.unlink(missing_ok=True)
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
