"""A laboratory of 2 to 200 hosts on one machine, for tests and measurements. Linux, root.

    with Lab([Host("hub"), Host("a", up=10, down=50, delay=20, nat="symmetric")]) as lab:
        server = lab.run("hub", ["duckweed", "serve"])          # a Popen inside the host
        print(lab.output("a", ["ping", "-c1", lab.address("hub")]))
        lab.change("a", up=1, down=1)                           # while packets flow
        lab.cut("a"); lab.join("a"); lab.move("a")

Each host is a network namespace; one user-space emulator (emulator.py) is the internet between them.
A host with a NAT sits behind a router namespace that masquerades, with everything uninvited dropped.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NATS = {"": "", "preserving": "", "symmetric": "fully-random"}
RULES = """table ip nat {{
 chain post {{
  type nat hook postrouting priority 100
  oifname "wan0" masquerade {how}
 }}
}}
table ip f {{
 chain forw {{
  type filter hook forward priority 0; policy drop;
  iifname "lan0" accept
  ct state established,related accept
 }}
 chain inp {{
  type filter hook input priority 0; policy drop;
  ct state established,related accept
 }}
}}
"""


class LabError(RuntimeError):
    """The laboratory cannot be built here; the message says why."""


@dataclass(frozen=True)
class Host:
    """up, down: Mbit/s. delay, jitter: ms one way, added to those of the other host. loss: percent
    of the packets it sends and of those it gets. nat: "", "preserving" (the mapping keeps the port)
    or "symmetric" (another port for every destination). queue: ms of packets before tail drop."""

    name: str
    up: float = 100.0
    down: float = 100.0
    delay: float = 10.0
    jitter: float = 0.0
    loss: float = 0.0
    nat: str = ""
    queue: float = 100.0


def unavailable(nat: bool = False) -> str:
    """Why no laboratory can be built on this machine; "" if it can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "the command `ip` is missing (Debian: apt install iproute2)"
    if nat and not shutil.which("nft"):
        return "the command `nft` is missing (Debian: apt install nftables)"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun is missing: this machine does not permit TUN devices"
    probe = f"dwprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if made.returncode:
        return f"network namespaces are not permitted here ({made.stderr.strip()})"
    rules = ["ip", "netns", "exec", probe, "nft", "list", "ruleset"]
    listed = subprocess.run(rules, capture_output=True, text=True) if nat else made
    subprocess.run(["ip", "netns", "del", probe], check=False)
    if listed.returncode:
        return f"the kernel does not take NAT rules here ({listed.stderr.strip()})"
    return ""


def _do(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")


class Lab:
    """The hosts while the `with` block lasts; on leaving, their processes are killed."""

    def __init__(self, hosts: Sequence[Host], seed: int = 0) -> None:
        if len(hosts) > 200 or len({h.name for h in hosts}) < len(hosts):
            raise LabError("at most 200 hosts, each with a name of its own")
        self.hosts, self.seed = {host.name: host for host in hosts}, seed
        self.addresses = {h.name: f"10.77.0.{i + 1}" for i, h in enumerate(hosts)}
        self._lans = {h.name: f"192.168.{i + 1}" for i, h in enumerate(hosts)}
        self._moves = 0
        self._emulator: subprocess.Popen | None = None
        self._processes: list[subprocess.Popen] = []
        self._spaces: list[str] = []

    def __enter__(self) -> "Lab":
        if why := unavailable(any(h.nat for h in self.hosts.values())):
            raise LabError(why)
        try:
            for host in self.hosts.values():
                self._space(self.space(host.name))
                if host.nat:
                    self._space(self._edge(host.name))
            self._start()
            for host in self.hosts.values():
                self._connect(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        if self._emulator:
            assert self._emulator.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._emulator.stdin.close()
            self._emulator.wait(10)
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)

    # --- what tests use

    def space(self, host: str) -> str:
        """The network namespace of a host."""
        return f"dw{os.getpid()}-{host}"

    def address(self, host: str) -> str:
        """Where the internet sees a host: its own address, or that of its NAT."""
        return self.addresses[host]

    def run(self, host: str, command: Sequence[str], **more: Any) -> subprocess.Popen:
        """Start a process in a host; more: as for subprocess.Popen."""
        inside = ["ip", "netns", "exec", self.space(host), *command]
        process = subprocess.Popen(inside, **more)
        self._processes.append(process)
        return process

    def output(self, host: str, command: Sequence[str], timeout: float = 60.0) -> str:
        """Standard output of a command in a host. Raises CalledProcessError, TimeoutExpired."""
        inside = ["ip", "netns", "exec", self.space(host), *command]
        done = subprocess.run(inside, capture_output=True, text=True, timeout=timeout, check=True)
        return done.stdout

    def change(self, host: str, **facts: float | bool | str) -> None:
        """Change up, down, delay, jitter, loss or queue of a host while packets flow."""
        assert self._emulator is not None
        assert self._emulator.stdin is not None
        self._emulator.stdin.write(json.dumps({"name": host, **facts}).encode() + b"\n")
        self._emulator.stdin.flush()

    def cut(self, host: str) -> None:
        """No packet reaches the host or leaves it, until `join`."""
        self.change(host, cut=True)

    def join(self, host: str) -> None:
        self.change(host, cut=False)

    def move(self, host: str) -> str:
        """The host loses its public address and gets another, like a laptop that changes networks;
        returns the new one."""
        self._moves += 1
        old, new = self.addresses[host], f"10.77.1.{self._moves}"
        space = self._outer(self.hosts[host])
        _do("ip", "-n", space, "addr", "del", f"{old}/16", "dev", "wan0")
        _do("ip", "-n", space, "addr", "add", f"{new}/16", "dev", "wan0")
        _do("ip", "-n", space, "route", "replace", "default", "dev", "wan0", "src", new)
        self.change(host, address=new)
        self.addresses[host] = new
        return new

    # --- building

    def _space(self, name: str) -> None:
        _do("ip", "netns", "add", name)
        self._spaces.append(name)
        _do("ip", "-n", name, "link", "set", "lo", "up")

    def _edge(self, host: str) -> str:
        return f"{self.space(host)}-nat"

    def _outer(self, host: Host) -> str:
        return self._edge(host.name) if host.nat else self.space(host.name)

    def _start(self) -> None:
        specs = [
            vars(h) | {"namespace": self._outer(h), "address": self.addresses[h.name]}
            for h in self.hosts.values()
        ]
        command = [sys.executable, str(Path(__file__).with_name("emulator.py")), str(self.seed)]
        self._emulator = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._emulator.stdin is not None
        assert self._emulator.stdout is not None
        self._emulator.stdin.write(json.dumps(specs).encode() + b"\n")
        self._emulator.stdin.flush()
        if self._emulator.stdout.readline() != b"ready\n":
            raise LabError("the emulator did not start")

    def _connect(self, host: Host) -> None:
        outer, address = self._outer(host), self.addresses[host.name]
        _do("ip", "-n", outer, "addr", "add", f"{address}/16", "dev", "wan0")
        _do("ip", "-n", outer, "link", "set", "wan0", "up", "mtu", "1500", "txqueuelen", "1000")
        # A host has no other internet: its default route leads here too.
        _do("ip", "-n", outer, "route", "add", "default", "dev", "wan0", "src", address)
        if not host.nat:
            return
        inner, lan = self.space(host.name), self._lans[host.name]
        _do("ip", "-n", outer, "link", "add", "lan0", "type", "veth",
            "peer", "name", "eth0", "netns", inner)  # fmt: skip
        _do("ip", "-n", outer, "addr", "add", f"{lan}.1/24", "dev", "lan0")
        _do("ip", "-n", outer, "link", "set", "lan0", "up")
        _do("ip", "-n", inner, "addr", "add", f"{lan}.2/24", "dev", "eth0")
        _do("ip", "-n", inner, "link", "set", "eth0", "up")
        _do("ip", "-n", inner, "route", "add", "default", "via", f"{lan}.1")
        _do("ip", "netns", "exec", outer, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        rules = RULES.format(how=NATS[host.nat])
        _do("ip", "netns", "exec", outer, "nft", "-f", "-", text=rules)
