"""The internet between the hosts of a laboratory: rates, delay, jitter, loss, in user space.

Started by lab.py as a process of its own (root). One TUN device per host; every IPv4 packet waits its
turn on the sender's way up, travels, waits its turn on the receiver's way down, or is dropped: at
random (loss, once per packet and host) or because a queue is full (drop-tail). Kernels without netem
and fq cannot delay packets themselves.

First line on standard input: a JSON list of hosts. Every further line changes one host while packets
flow, for example {"name": "a", "up": 1, "down": 1} or {"name": "a", "cut": true}.
"""

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time

TUNSETIFF, IFF_TUN_NO_PI, CLONE_NEWNET = 0x400454CA, 0x1001, 0x40000000
BATCH = 32  # packets read from one host before the others get their turn


class Host:
    """One host's link, with the instants at which its two directions are free again."""

    def __init__(self, device: int, facts: dict) -> None:
        self.device, self.cut, self.up_free, self.down_free = device, False, 0.0, 0.0
        self.set(facts)

    def set(self, facts: dict) -> None:
        """Rates in megabit/s; delay and jitter in ms one way; loss in percent; queue in ms."""
        for name in ("up", "down"):
            if name in facts:
                setattr(self, name, facts[name] * 1e6 / 8)
        for name in ("delay", "jitter", "queue"):
            if name in facts:
                setattr(self, name, facts[name] / 1e3)
        if "loss" in facts:
            self.loss = facts["loss"] / 100
        self.cut = facts.get("cut", self.cut)


def open_tun(namespace: str) -> int:
    """A TUN device wan0 inside a network namespace, non-blocking."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if libc.setns(there, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"wan0", IFF_TUN_NO_PI))
    libc.setns(home, CLONE_NEWNET)
    os.close(there)
    os.close(home)
    return device


class Internet:
    """All hosts, and the packets between them."""

    def __init__(self, specs: list[dict], seed: int) -> None:
        self.hosts = {s["name"]: Host(open_tun(s["namespace"]), s) for s in specs}
        self.by_device = {host.device: host for host in self.hosts.values()}
        self.by_address = {socket.inet_aton(s["address"]): self.hosts[s["name"]] for s in specs}
        self.random = random.Random(seed)
        self.waiting: list[tuple[float, int, bool, Host, bytes]] = []
        self.count = 0

    def change(self, facts: dict) -> None:
        host = self.hosts[facts["name"]]
        host.set(facts)
        if "address" in facts:
            self.by_address = {a: h for a, h in self.by_address.items() if h is not host}
            self.by_address[socket.inet_aton(facts["address"])] = host

    def _later(self, when: float, last: bool, host: Host, packet: bytes) -> None:
        self.count += 1
        heapq.heappush(self.waiting, (when, self.count, last, host, packet))

    def take(self, device: int) -> None:
        """Read what a host sends and put it on its way."""
        source = self.by_device[device]
        for _ in range(BATCH):
            try:
                packet = os.read(device, 2048)
            except BlockingIOError:
                return
            if packet[0] >> 4 != 4:
                continue
            target, now = self.by_address.get(packet[16:20]), time.monotonic()
            start = max(source.up_free, now)
            lost = target is None or source.cut or target.cut or start - now > source.queue
            if lost:
                continue
            source.up_free = start + len(packet) / source.up
            survives = (1 - source.loss) * (1 - target.loss)
            if self.random.random() < survives:
                wobble = self.random.random() * (source.jitter + target.jitter)
                arrives = source.up_free + source.delay + target.delay + wobble
                self._later(arrives, False, target, packet)

    def deliver(self) -> None:
        """Hand over what has arrived by now."""
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            when, _, last, host, packet = heapq.heappop(self.waiting)
            if last:
                try:
                    os.write(host.device, packet)
                except OSError:  # the host is gone, or its own queue is full: a lost packet
                    continue
            else:
                start = max(host.down_free, when)
                if start - when <= host.queue:
                    host.down_free = start + len(packet) / host.down
                    self._later(host.down_free, True, host, packet)

    def run(self) -> None:
        """Until standard input closes."""
        poll = select.epoll()
        for device in self.by_device:
            poll.register(device, select.EPOLLIN)
        poll.register(0, select.EPOLLIN)
        while True:
            ahead = self.waiting[0][0] - time.monotonic() if self.waiting else 1.0
            for device, _ in poll.poll(max(0.0, ahead)):
                if device == 0:
                    text = os.read(0, 1 << 16)
                    if not text:
                        return
                    for line in text.splitlines():
                        self.change(json.loads(line))
                else:
                    self.take(device)
            self.deliver()


if __name__ == "__main__":
    first = b""
    while not first.endswith(b"\n"):
        first += os.read(0, 1)
    internet = Internet(json.loads(first), int(sys.argv[1]))
    print("ready", flush=True)
    internet.run()
