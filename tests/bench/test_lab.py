"""The laboratory keeps its promises: delay, NAT, cut, move."""

import subprocess
import sys

import pytest

from bench.wan.lab import Host, Lab, unavailable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(unavailable(nat=True)), reason=f"no lab: {unavailable(nat=True)}"),
]

ECHO = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 9)); print('up', flush=True)
while True:
    _, who = s.recvfrom(99); s.sendto(f'{who[0]} {who[1]}'.encode(), who)
"""
CALL = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2); s.bind(('', 5000))
for address in sys.argv[1:]:
    began = time.monotonic(); s.sendto(b'x', (address, 9))
    print(s.recv(99).decode(), time.monotonic() - began)
"""


def call(lab, host, *addresses):
    """(seen address, seen port, seconds) for each address called."""
    out = lab.output(host, [sys.executable, "-c", CALL, *addresses])
    return [(a, int(p), float(t)) for a, p, t in (line.split() for line in out.splitlines())]


def test_delay_nats_cuts_and_moves():
    hosts = [Host("hub"), Host("far", delay=90), Host("same", nat="preserving"),
             Host("other", nat="symmetric"), Host("laptop")]  # fmt: skip
    with Lab(hosts) as lab:
        for host in ("hub", "far"):
            served = lab.run(host, [sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
            assert served.stdout.readline() == b"up\n"
        both = lab.address("hub"), lab.address("far")
        (_, near, fast), (_, far, slow) = call(lab, "same", *both)
        assert near == far == 5000
        assert fast >= 0.04
        assert slow >= 0.2
        (seen, near, _), (_, far, _) = call(lab, "other", *both)
        assert seen == lab.address("other")
        assert near != far
        before = lab.address("laptop")
        assert lab.move("laptop") != before
        assert call(lab, "laptop", both[0])[0][:2] == (lab.address("laptop"), 5000)
        lab.cut("laptop")
        with pytest.raises(subprocess.CalledProcessError):
            call(lab, "laptop", both[0])
        lab.join("laptop")
        assert call(lab, "laptop", both[0])[0][0] == lab.address("laptop")
