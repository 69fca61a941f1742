"""A flood of strangers: real sockets against a process that may open few files."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from duckweed.net import tcp
from duckweed.net.identity import Identity
from duckweed.net.rate_limits import HERE
from duckweed.net.strangers import FROM_ONE, Strangers
from duckweed.net.token_bucket import Pace

MEMBER, SERVER = Identity(b"m" * 32), Identity(b"s" * 32)
FILES = 256
SERVING = """
    import asyncio, json, os, resource, sys
    from pathlib import Path
    from duckweed.net.framing import Accepted, Service
    from duckweed.net.identity import Identity
    from duckweed.net.rate_limits import RateLimits
    from duckweed.net.tcp import Listener
    from duckweed.net.token_bucket import Pace

    files, member, address, place = int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    async def answer(body):
        opened = [open(place / str(n), "wb") for n in range(files // 4)]  # as blobs are written
        for file in opened:
            file.write(body)
            file.close()
        status = Path("/proc/self/status").read_text()
        memory = int(status.partition("VmRSS:")[2].split()[0]) * 1024
        return json.dumps([len(os.listdir("/proc/self/fd")), memory]).encode(), b""

    async def main():
        limits = RateLimits(lambda key: key == member)
        accept = lambda key, head: Accepted(1 << 20, answer)
        listener = Listener(Identity(b"s" * 32), Service(accept, limits, 1 << 16, Pace()))
        await listener.listen(address)
        print("serving", flush=True)
        await asyncio.sleep(300)

    asyncio.run(main())
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@contextlib.contextmanager
def serving(place):
    address = f"127.0.0.1:{free_port()}"
    words = [str(FILES), MEMBER.id, address, str(place)]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SERVING), *words], stdout=subprocess.PIPE, text=True,
        env=os.environ,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "serving\n"
        yield address, process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def asked(address):
    """What the server says to a member: how many files it has open, and its memory."""
    pool = tcp.TcpPool(MEMBER, SERVER.id, [address], 1 << 16, Pace(), lambda: 1.0)
    try:
        head, _ = await pool.ask(b"how are you", bytes(100_000), 0, 20.0)
    finally:
        pool.close()
    return [int(x) for x in head.decode().strip("[]").split(",")]


def idle(address, count):
    """So many connections, half of which say the first words of TLS and no more."""
    host, port = address.split(":")
    made = []
    for number in range(count):
        with contextlib.suppress(OSError):
            one = socket.create_connection((host, int(port)), timeout=5)
            if number % 2:
                one.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
            made.append(one)
    return made


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks into /proc")
def test_a_flood_of_idle_connections_leaves_files_memory_and_the_door_to_members(tmp_path):
    with serving(tmp_path) as (address, process):
        _, before = asyncio.run(asked(address))
        waiting = []
        try:
            for _ in range(6):
                waiting = [*waiting, *idle(address, 100)][-400:]
                opened, memory = asyncio.run(asked(address))
                assert opened < FILES // 2
                assert memory - before < 100_000_000
        finally:
            for one in waiting:
                one.close()
        assert process.poll() is None


def test_old_connections_of_the_address_that_has_most_go_first():
    gone: list[str] = []
    few = Strangers(20)
    tickets = {}
    for n in range(40):
        tickets[n] = few.enter("192.0.2.1:5", lambda n=n: gone.append(f"flood {n}"))
    assert len(few) == FROM_ONE
    assert gone == [f"flood {n}" for n in range(40 - FROM_ONE)]
    gone.clear()
    for n in range(10):
        few.enter(f"198.51.100.{n}:5", lambda n=n: gone.append(f"other {n}"))
    assert len(few) == 20
    assert all(x.startswith("flood") for x in gone)
    few.leave(tickets[0])  # gone before: nothing changes
    assert len(few) == 20


def test_on_this_machine_connections_are_limited_in_all():
    few = Strangers(20)
    for _ in range(100):
        few.enter("127.0.0.1:5", lambda: None)
    assert len(few) == 20
    assert few._from == {HERE: 20}
