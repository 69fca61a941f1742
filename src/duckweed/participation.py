"""A peer's part in a run of others: made ready, taken, what it has given, what it takes home."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from contextlib import closing

import torch

from duckweed.learn import memory
from duckweed.learn.device import choose
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.identity import load_or_create, verify
from duckweed.pages.live.follow import Follower
from duckweed.pages.run_summary import tried
from duckweed.process.environment import allow_files
from duckweed.round import export, founding
from duckweed.run import spec as specs
from duckweed.run.folder import RunFolder
from duckweed.run.spec import SpecError
from duckweed.session import Say, Session, closed_rounds, finish
from duckweed.swarm.peer.join import join as take_part
from duckweed.volunteer import controls, given
from duckweed.volunteer.controls import Controls
from duckweed.volunteer.given import Given
from duckweed.volunteer.peer_home import PeerHome
from duckweed.volunteer.watch import hold_to
from duckweed.wire import threads

STANDING = 60.0  # seconds between two sentences on what a peer has given


def ready(limits: Controls, device: str) -> str:
    """Make this process ready to be a volunteer's peer: its priority, its memory and its threads are held
    to the limits from now on. Returns the device as PyTorch names it."""
    memory.one_heap()
    torch.set_num_threads(limits.threads)
    threads.use(limits.threads)
    device = choose(device)
    allow_files()
    hold_to(limits, device)
    return device


async def join(
    home: PeerHome,
    data: Sequence[str],
    device: str,
    say: Say,
    dry_run: bool = False,
    config: str = "",
    tokenizer: str = "",
    mirror: str = "",
) -> str:
    """Take part in the run of an invitation until it ends; returns the reason. device: what `ready` gave;
    data, config, tokenizer: where they lie on this machine, if the user has named them; mirror: URL of
    the run's mirror. What there is to take home afterwards, `take_home` takes.

    Raises LinkError, DataError, ModelError, OutOfMemory, ControlsError, PeerStopped."""
    telling = asyncio.create_task(_tell_standing(home, say))
    try:
        return await take_part(
            home.invitation, home.home, tuple(data), device, say, dry_run, config, tokenizer, mirror
        )
    finally:
        telling.cancel()


async def _tell_standing(home: PeerHome, say: Say) -> None:
    """Now and then what the peer has given, where that has grown; kept for `duckweed me`."""
    run, rounds = None, 0
    while True:
        await asyncio.sleep(STANDING)
        with contextlib.suppress(LedgerError, SpecError, OSError):
            run = run or (Follower(RunFolder(home.home)) if RunFolder(home.home).founded else None)
            found = await asyncio.to_thread(standing, home, run) if run else None
            if found and found.rounds > rounds:
                rounds = found.rounds
                say(f"given so far: {found.sentence()}")


def standing(home: PeerHome, run: Follower | None = None) -> Given | None:
    """What a peer has given to its run, by its copy of the ledger, noted for `duckweed me`; None before it
    was admitted. run: what was read of the ledger before. Raises LedgerError, SpecError, OSError."""
    run = run or Follower(RunFolder(home.home))
    run.look()
    key = load_or_create(home.peer / "key").id
    me = next((x for x in run.peers.values() if x.key == key), None)
    if me is None:
        return None
    found = Given(
        run=run.spec.identity, key=key, home=str(home.home.resolve()),
        tokens=me.tokens, rounds=me.counted, share=me.tokens / max(1, run.tokens),
        place=1 + sum(x.tokens > me.tokens for x in run.peers.values()),
        peers=len(run.peers), over=run.done, head=run.head, time=time.time(),
    )  # fmt: skip
    given.keep(found)
    return found


def take_home(home: PeerHome, device: str, say: Say) -> list[str]:
    """Of a run that is over: its model, ledger and report in the peer's own folder, from the state that it
    holds; nobody is asked. Returns what there is, in lines; none where the last round is not here.

    Raises LedgerError, StateError, ModelError, DataError, OSError."""
    folder = RunFolder(home.home)
    if not folder.spec.is_file() or not folder.ledger.is_file():
        return []
    spec, keep = specs.load(folder.spec), controls.load(home.peer).model
    count = spec.schedule.rounds
    if closed_rounds(folder) < count or not folder.state(count).is_file():
        return []
    with closing(Ledger(folder.ledger)) as ledger:
        entries, head = ledger.verify(verify), ledger.head
    done = folder.report.is_file() and (not keep or (folder.model / "config.json").is_file())
    if not done:
        say("measuring and exporting the model" if keep else "measuring the model")
        run = Session(folder, spec, founding.reopen(folder, spec), device, torch.get_num_threads())
        finish(run, keep)
    if export.agreed(folder, count):
        told = "its last state is the one that the peers agreed on"
    else:
        told = "nobody has confirmed the last state: it is as this machine computed it"
    mine = standing(home)
    return [
        *([f"given    {mine.sentence()}; over all runs: duckweed me"] if mine else []),
        f"ledger   {folder.ledger}: {entries} entries, chain and signatures hold, head {head[:16]}; {told}",
        f"report   {folder.report}",
        *([f"model    {folder.model}", f"try it   {tried(folder, spec)}"] if keep else []),
    ]
