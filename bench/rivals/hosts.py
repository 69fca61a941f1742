"""Hosts on this machine: a network namespace for each peer and one for the hub, joined by a bridge, whose counters
say what a host sent and received. Linux, root. The links are as fast as the machine."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

ETC = Path("/etc/netns")  # what `ip netns exec` shows to a namespace instead of the files of /etc


class Hosts:
    """Named hosts, the first of them the hub. The bridge is a namespace of its own, so that the machine's own
    network is not touched."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)
        self.prefix = f"dwr{os.getpid()}"

    def __enter__(self) -> "Hosts":
        bridge = self._space("bridge")
        names = "127.0.0.1 localhost\n"
        names += "".join(f"{self.address(name)} {name}\n" for name in self.names)
        run("ip", "netns", "add", bridge)
        run("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", bridge, "link", "set", "br0", "up")
        for number, name in enumerate(self.names):
            space, port = self._space(name), f"p{number}"
            run("ip", "netns", "add", space)
            (ETC / space).mkdir(parents=True)
            (ETC / space / "hosts").write_text(names)
            run("ip", "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", bridge)  # fmt: skip
            run("ip", "-n", bridge, "link", "set", port, "master", "br0", "up")
            run("ip", "-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
            run("ip", "-n", space, "link", "set", "lo", "up")
            run("ip", "-n", space, "route", "add", "default", "dev", "eth0")
        return self

    def __exit__(self, *_: object) -> None:
        for name in [*self.names, "bridge"]:
            subprocess.run(["ip", "netns", "del", self._space(name)], capture_output=True)
            shutil.rmtree(ETC / self._space(name), ignore_errors=True)

    def _space(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def address(self, name: str) -> str:
        return f"10.77.0.{self.names.index(name) + 1}"

    def start(
        self,
        name: str,
        command: Sequence[str],
        log: IO[bytes],
        environment: dict[str, str],
        place: Path,
    ) -> subprocess.Popen[bytes]:
        """A process on a host, in a session of its own, what it says in `log`."""
        # torchft tells the others its host's name, so that each host needs one of its own.
        named = ["unshare", "--uts", "sh", "-c", f'hostname {name} && exec "$@"', "sh"]
        inside = ["ip", "netns", "exec", self._space(name), *named, *command]
        return subprocess.Popen(
            inside, stdout=log, stderr=log, env=environment, cwd=place, start_new_session=True
        )

    def moved(self, name: str) -> tuple[int, int]:
        """Bytes that a host has sent and received."""
        text = subprocess.run(
            ["ip", "netns", "exec", self._space(name), "cat", "/proc/net/dev"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        line = next(line for line in text.splitlines() if line.strip().startswith("eth0:"))
        numbers = [int(x) for x in line.partition(":")[2].split()]
        return numbers[8], numbers[0]


def run(*command: str) -> Any:
    """Raises RuntimeError with what the command said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done
