"""The processes of a run on this machine: `python -m duckweed.process.entry coordinator|peer ...`.

Each writes events as JSON lines to its standard output for the process that started it.
"""

import argparse
import asyncio
import errno
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import load_or_create, verify
from duckweed.run import spec as specs
from duckweed.run.folder import RunFolder, write_atomically
from duckweed.run.lock import Busy, alone

SHOWN = 200  # peers of which it is told a second


def tell(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


async def coordinate(
    folder: RunFolder, address: str, relays: list[str], relay_port: int | None
) -> None:
    """Serve the run until its rounds are done or SIGTERM comes. relays: URLs; relay_port: TCP port of
    one beside the coordinator (0: any), None: there is none."""
    import msgspec

    from duckweed.net.relay import Relay
    from duckweed.net.transport import Endpoint, LinkError, is_relay
    from duckweed.run.layout import Layout
    from duckweed.swarm.node.node import Station
    from duckweed.swarm.protocol import messages as m

    identity = load_or_create(folder.coordinator_key)
    layout = msgspec.json.decode((folder.path / "layout.json").read_bytes(), type=Layout)

    def record(facts: dict[str, Any]) -> None:
        folder.record(**facts)
        tell(facts)

    def say(text: str) -> None:
        tell({"event": "said", "text": text})

    ledger = Ledger(folder.ledger, identity.sign, folder.dropped)
    ledger.verify(verify)
    relay = None
    if relay_port is not None:
        relay = Relay(lambda key: key == identity.id or station.guard.knows(key))
        try:
            relay_port, at = await relay.start(address.rpartition(":")[0], relay_port)
        except LinkError as error:
            raise LinkError(
                f"{error}; choose another --listen port (the relay takes the next one), or --no-relay"
            ) from error
        relays = [at, *relays]
    endpoint = await Endpoint.bind(identity, m.HEAD_LIMIT, address, relays)
    station = Station(endpoint, identity, folder, ledger, (identity.id, []), record, say)
    station.begin(specs.load(folder.spec), layout)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, lambda: asyncio.ensure_future(station.stop("stopped")))
    tell(
        {
            "event": "serving",
            "id": identity.id,
            "bound": endpoint.bound,
            "addresses": [x for x in endpoint.addresses if not is_relay(x)],
            "relay": relay_port,
        }
    )
    serving = asyncio.create_task(station.serve())
    showing = asyncio.create_task(_show(station))
    try:
        await station.run()
        folder.record(event="end", relayed=relay.bytes if relay else 0, **station.account())
    finally:
        for task in (serving, showing):
            task.cancel()
        await endpoint.close()
        if relay:
            await relay.close()
        ledger.close()


async def _show(station: Any) -> None:
    """What each peer is doing, twice a second, of many less often, for whoever watches; and, while
    another coordinates the run, that this machine follows."""
    while True:
        coordinator = station.coordinator
        if coordinator is None:
            tell({"event": "following"})
            await asyncio.sleep(0.5)
            continue
        peers = [
            {"peer": x.index, "doing": x.doing, "step": x.step, "loss": x.loss}
            for x in coordinator.admission.by_index
        ]
        tell(
            {
                "event": "peers",
                "round": coordinator.number,
                "peers": peers,
                "traffic": coordinator.moved(),
            }
        )
        await asyncio.sleep(max(0.5, len(coordinator.admission.by_index) / SHOWN))


async def take_part(
    folder: RunFolder, slot: int, coordinator: tuple[str, list[str]], device: str
) -> str:
    """Be peer number `slot` of this machine until the run ends; returns the reason."""
    import torch

    from duckweed.learn import memory
    from duckweed.round import founding
    from duckweed.round.worker import Worker
    from duckweed.run import state as states
    from duckweed.swarm.peer.peer import Peer

    memory.one_heap()
    torch.set_num_threads(int(os.environ.get("DUCKWEED_THREADS", "1")))
    spec = specs.load(folder.spec)
    ground, layout = founding.reopen(folder, spec), founding.layout(folder)
    # With overlap a round is begun from the state before: a run that was stopped goes on from there.
    saved = folder.saved_rounds()[-2 if spec.rounds.overlap else -1 :][0]
    state = states.load(folder.state(saved), layout)
    worker = Worker(spec, layout, founding.learner(spec, ground, device))
    home = folder.peer(slot)
    identity = load_or_create(home / "key")

    def say(text: str) -> None:
        tell({"event": "said", "slot": slot, "text": text})

    secret = folder.read_secret()
    return await Peer(identity, worker, state, home, folder, coordinator, secret, say).run()


def _words(error: Exception, folder: RunFolder) -> str:
    """An error as a person would want to read it."""
    if isinstance(error, Busy):
        return f"{folder.path} is being trained by another process already"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({folder.path}); make room and go on with --resume"
    if isinstance(error, ValueError | RuntimeError | OSError):
        return str(error)
    return f"{type(error).__name__}: {error}; see {folder.logs}"


def _end_with_parent() -> None:
    """End this process when the one that started it does: its end of our standard input closes."""
    while os.read(0, 1):  # not sys.stdin: its lock would be held when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> int:
    parser = argparse.ArgumentParser(prog="duckweed.process.entry")
    parser.add_argument("role", choices=["coordinator", "peer"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slot", type=int, default=0)
    parser.add_argument("--coordinator", default="")
    parser.add_argument("--addresses", nargs="*", default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--address", default="127.0.0.1:0")
    parser.add_argument("--relays", nargs="*", default=[])
    parser.add_argument("--relay-port", type=int)
    given = parser.parse_args()
    folder = RunFolder(given.folder)
    pid = folder.path / f"{given.role}{given.slot if given.role == 'peer' else ''}.pid"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        write_atomically(pid, str(os.getpid()).encode())
        if given.role == "coordinator":
            with alone(folder.path / "coordinator.lock", wait=False):
                asyncio.run(coordinate(folder, given.address, given.relays, given.relay_port))
        else:
            meeting = (given.coordinator, given.addresses)
            reason = asyncio.run(take_part(folder, given.slot, meeting, given.device))
            tell({"event": "ended", "slot": given.slot, "reason": reason})
    except Exception as error:
        # Whatever it was, whoever watches must hear of it; the log has the whole story.
        traceback.print_exc()
        reason = _words(error, folder)
        tell({"event": "failed", "role": given.role, "slot": given.slot, "reason": reason})
        return 1
    finally:
        pid.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
