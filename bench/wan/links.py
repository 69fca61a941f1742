"""What links between hosts of the laboratory carry, without a run: through NATs, and under loss."""

import json
import subprocess
import sys
from typing import Any

from bench.wan.lab import Host, Lab

PROBE = [sys.executable, "-m", "bench.wan.probe"]
PATIENCE = 120.0


class Probe:
    """A process of probe.py inside a host."""

    def __init__(self, lab: Lab, host: str, *words: str) -> None:
        self.process = lab.run(
            host, [*PROBE, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.is_ = self.hear()

    @property
    def at(self) -> list[str]:
        return [self.is_["id"], *self.is_["addresses"]]

    def hear(self) -> dict[str, Any]:
        """The next thing it says. Raises RuntimeError if it ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a probe ended with code {self.process.wait()}")
        return json.loads(line)

    def order(self, **task: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()

    def move(self, other: "Probe", size: int, over_tcp: bool = True, settle: float = 0.0) -> dict:
        """Dial another end, send and fetch so many bytes; what was found."""
        self.order(**other.is_, bytes=size, over_tcp=over_tcp, settle=settle)
        return self.hear()


def through_nats(kinds: tuple[str, str], size: int = 1 << 20) -> dict[str, Any]:
    """Two peers behind NATs and a hub that both can reach: how they reach each other."""
    hosts = [Host("hub"), *(Host(f"p{n}", nat=kind) for n, kind in enumerate(kinds))]
    with Lab(hosts) as lab:
        hub = Probe(lab, "hub", "hub", f"{lab.address('hub')}:7000")
        one, other = (Probe(lab, f"p{n}", "peer", *hub.at) for n in range(2))
        return one.move(other, size, settle=10)


def under_loss(loss: float, size: int = 4 << 20, **link: float) -> dict[str, Any]:
    """A peer and a hub at a public address, bodies over TCP and over iroh. loss: percent between the
    two hosts, each way."""
    hosts = [Host(name, loss=loss / 2, **link) for name in ("hub", "p0")]
    with Lab(hosts) as lab:
        hub = Probe(lab, "hub", "hub", f"{lab.address('hub')}:7000")
        peer = Probe(lab, "p0", "peer", *hub.at)
        return {
            name: peer.move(hub, size, over_tcp)
            for name, over_tcp in (("tcp", True), ("iroh", False))
        }
