"""The ranks of a site: how they meet, what they must agree on, how rank 0 speaks to the others, and how the end of
one of them is noticed."""

import contextlib
import logging
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from importlib.metadata import version

import msgspec
import numpy as np
import torch
import torch.distributed as dist

from duckweed.learn.device import DeviceError, choose
from duckweed.learn.site.orders import Listed, Order
from duckweed.learn.site.place import LOST, Place, SiteError

log = logging.getLogger(__name__)
MEET = timedelta(seconds=120)  # for all ranks to come
FOREVER = timedelta(days=1000)
"""For a collective: a volunteer may pause for a night. Who is gone is noticed otherwise."""
BEAT = 1.0  # seconds between two signs of life of a rank
SILENT = 10.0  # seconds without one until a rank counts as gone
LAST_MOVE = 8.0  # seconds for rank 0 to leave the run once a rank is gone
LIMIT = 1 << 26  # bytes of an order
GONE = ("gloo", "connection closed", "connection reset", "broken pipe", "nccl", "processgroup")
"""Words in the errors of collectives whose other end is gone; torch has no one error for it."""


class SiteBroken(RuntimeError):
    """A process of the site is gone."""


class Hello(msgspec.Struct):
    """What a rank says of itself before anything else."""

    host: str
    run: str
    """What it was told to take part in."""
    versions: str
    device: str
    fault: str = ""
    """Why it cannot take part."""


class Group:
    """The ranks of a site, met and agreed. One for each process."""

    def __init__(self, place: Place, device: str, hosts: int, pulse: "Pulse") -> None:
        self.rank, self.size = place.rank, place.size
        self.device = device
        """Of this rank, as PyTorch names it."""
        self.hosts = hosts
        """How many machines the ranks are on."""
        self.pulse = pulse
        self.sharded = False
        """Whether the model is shared out, so that no rank could hold it."""
        self.lock = threading.RLock()
        """Held by the thread of rank 0 that gives orders: a block that is given up ends with its step, maybe while
        something else is begun."""
        self.torn = False
        """Whether an order was given up halfway: then the ranks do not understand each other any more."""

    @staticmethod
    def meet(place: Place, run: str, device: str) -> "Group":
        """Wait for the others. run: what this rank was told to take part in; device: as the user named it. Raises
        SiteError, on every rank the same, unless all can work together."""
        try:
            store: dist.Store = next(iter(dist.rendezvous("env://", timeout=MEET)))[0]
        except (dist.DistError, ValueError) as error:
            raise SiteError(f"the processes of this site did not meet: {_brief(error)}") from error
        # torchrun starts ranks again with the store that it has: what is left of the ranks before must not be read.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        own = store.clone()  # type: ignore[attr-defined]  # a connection of its own
        pulse = Pulse(place, dist.PrefixStore(attempt, own))
        store = dist.PrefixStore(attempt, store)
        hello = Hello(platform.node(), run, _versions(), "")
        try:
            hello.device = _own(device, place)
        except (DeviceError, SiteError) as error:
            hello.fault = str(error)
        store.set(f"hello/{place.rank}", msgspec.json.encode(hello).decode())
        said: list[Hello] = []
        for rank in range(place.size):
            try:
                store.wait([f"hello/{rank}"], MEET)
            except dist.DistError as error:
                raise SiteError(
                    f"{rank} of the {place.size} processes of this site are here, and the next one did not come within "
                    f"{MEET.seconds} s"
                ) from error
            said.append(msgspec.json.decode(store.get(f"hello/{rank}"), type=Hello))
        check(said)
        kind = hello.device.partition(":")[0]
        if kind == "cuda":
            torch.cuda.set_device(hello.device)
        try:
            dist.init_process_group(
                "cpu:gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl",
                store=dist.PrefixStore("site", store),
                rank=place.rank,
                world_size=place.size,
                timeout=FOREVER,
            )
        except RuntimeError as error:
            raise SiteError(
                f"the processes of this site cannot connect to each other: {_brief(error)}; a firewall between their "
                "machines must let them, and GLOO_SOCKET_IFNAME names the network interface to use"
            ) from error
        pulse.start()
        return Group(place, hello.device, len({one.host for one in said}), pulse)

    def close(self) -> None:
        """Leave; the others notice it."""
        self.pulse.ended.set()
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()

    def __str__(self) -> str:
        where = f" on {self.hosts} machines" if self.hosts > 1 else ""
        return f"{self.size} processes{where} as one peer"

    # --- rank 0 speaks, the others hear

    def tell(self, order: Order, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """To all other ranks; an order that names arrays brings them along."""
        self._say(msgspec.json.encode(order))
        for array in (arrays or {}).values():
            dist.broadcast(_raw(np.ascontiguousarray(array)), 0)

    def hear(self) -> Order:
        """The next order of rank 0."""
        size = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(size, 0)
        if not 0 < int(size) <= LIMIT:
            raise SiteError(f"rank 0 has sent an order of {int(size)} bytes")
        data = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, 0)
        return msgspec.json.decode(data.numpy().tobytes(), type=Order)

    def receive(self, listed: list[Listed]) -> dict[str, np.ndarray]:
        """The arrays that came with an order."""
        found = {}
        for one in listed:
            found[one.name] = array = np.empty(one.shape, one.dtype)
            dist.broadcast(_raw(array), 0)
        return found

    def _say(self, data: bytes) -> None:
        dist.broadcast(torch.tensor([len(data)], dtype=torch.int64), 0)
        dist.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0)

    def broken(self, error: RuntimeError) -> SiteBroken | None:
        """What an error of rank 0 says of the others, if it does."""
        said = str(error).lower()
        if not isinstance(error, dist.DistError) and not any(word in said for word in GONE):
            return None
        log.info("%s", error)
        return SiteBroken(self.pulse.fault() or "another process of this site is gone")


def check(said: list[Hello]) -> None:
    """Raises SiteError unless the ranks can work together."""
    first = said[0]
    for rank, one in enumerate(said):
        who = f"process {rank} of this site (on {one.host})"
        if one.fault:
            raise SiteError(f"{who}: {one.fault}")
        if one.run != first.run:
            raise SiteError(
                f"{who} was given the invitation to run {one.run[:12]}, and process 0 the one to {first.run[:12]}; give "
                "all of them the same"
            )
        if one.versions != first.versions:
            raise SiteError(
                f"{who} has {one.versions}, and process 0 has {first.versions}; install the same versions"
            )
        kinds = one.device.partition(":")[0], first.device.partition(":")[0]
        if kinds[0] != kinds[1]:
            raise SiteError(
                f"{who} trains on {kinds[0]}, and process 0 on {kinds[1]}; a site is of one kind of device: "
                "--device cpu for all, or a GPU for each"
            )


def _versions() -> str:
    names = ("duckweed", "torch", "transformers")
    return ", ".join(f"{name} {version(name)}" for name in names)


def _own(wanted: str, place: Place) -> str:
    """The device of a rank: with CUDA, one for each. Raises DeviceError, SiteError."""
    if ":" in wanted:
        raise SiteError(
            f"--device {wanted}: each process of a site takes its own; write --device cuda"
        )
    device = choose(wanted)
    if device == "mps":
        raise SiteError(
            "a site trains on CUDA or on CPUs, not on mps; --device cpu, or --processes 1"
        )
    if device != "cuda":
        return device
    if place.beside > (there := torch.cuda.device_count()):
        raise SiteError(
            f"{place.beside} processes on this machine, which has {there} GPU{'s' if there > 1 else ''}: --processes "
            f"{there}"
        )
    return f"cuda:{place.local}"


def _raw(array: np.ndarray) -> torch.Tensor:
    """The bytes of an array, shared with it."""
    return torch.from_numpy(array.reshape(-1).view(np.uint8))


def _brief(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip() or type(error).__name__


class Pulse(threading.Thread):
    """Gives signs of life, once a second, and looks for those of the others: rank 0 for all, the others for rank 0.
    A collective says by itself that a process has ended; it does not say so of one that is frozen, or whose machine is
    off, and with CUDA it may wait without end."""

    def __init__(self, place: Place, store: dist.Store) -> None:
        super().__init__(daemon=True)
        self.rank, self.store = place.rank, store
        self.ended = threading.Event()
        self.lost = ""
        """Who is gone, in words."""
        self._watched = dict.fromkeys(range(1, place.size) if not place.rank else [0], (b"", 0.0))

    def run(self) -> None:
        now = time.monotonic()
        for rank in self._watched:
            self._watched[rank] = b"", now
        last, count = now, 0
        while not self.ended.wait(BEAT):
            now, before = time.monotonic(), last
            last, count = now, count + 1
            try:
                self.store.set(f"alive/{self.rank}", str(count))
                for rank in self._watched:
                    self._look(rank, now, now - before > 3 * BEAT)
            except RuntimeError:  # who keeps the store is gone
                self._give_up("process 0 of this site, or its machine, is gone")
            if self.lost:
                return

    def fault(self) -> str:
        """What a rank has said before it ended."""
        with contextlib.suppress(RuntimeError):
            if self.store.check(["fault"]):
                return str(self.store.get("fault").decode())
        return ""

    def tell_fault(self, words: str) -> None:
        """Why this rank ends, for rank 0 to say."""
        with contextlib.suppress(RuntimeError):
            self.store.set(
                "fault", f"process {self.rank} of this site (on {socket.gethostname()}): {words}"
            )

    def _look(self, rank: int, now: float, late: bool) -> None:
        """late: this process itself did not run for a while, so that the silence may be its own."""
        said, since = self._watched[rank]
        found = self.store.get(f"alive/{rank}") if self.store.check([f"alive/{rank}"]) else b""
        if found != said or late:
            self._watched[rank] = found, now
        elif now - since > SILENT:
            self._give_up(f"process {rank} of this site was not heard for {SILENT:.0f} s")

    def _give_up(self, words: str) -> None:
        if self.ended.is_set():
            return
        self.lost = self.fault() or words
        if self.rank == 0:  # it leaves the run, as after Ctrl-C
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            if self.ended.wait(LAST_MOVE):
                return
            # A step that waits for who is gone cannot be ended otherwise.
            print(f"error: {self.lost}; the peer has left the run", file=sys.stderr, flush=True)
        os._exit(LOST)
