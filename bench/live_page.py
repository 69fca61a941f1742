"""What viewers of the live page cost: processor time and bytes of the serving thread, by how many there are.

    python -m bench.live_page [--seconds 20] [--peers 20]

A run's folder grows by one round every two seconds, as a quick run's would, and is served by the real page from
this process. Viewers are sockets of another process that read all they get. The run itself is other processes, so
what the page takes is this process's time. Prints a table; the machine should be idle.
"""

import argparse
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VIEWERS = (0, 1, 100)
EVERY = 2.0  # seconds between two rounds


def watch(port: int, viewers: int) -> None:
    """Be so many viewers until standard input ends; then print how many bytes came."""
    waiting = selectors.DefaultSelector()
    for _ in range(viewers):
        it = socket.create_connection(("127.0.0.1", port))
        it.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        waiting.register(it, selectors.EVENT_READ)
    waiting.register(sys.stdin, selectors.EVENT_READ)
    came = 0
    while True:
        for key, _ in waiting.select():
            if key.fileobj is sys.stdin:
                print(came)
                return
            came += len(key.fileobj.recv(1 << 16))  # type: ignore[union-attr]


def measure(viewers: int, seconds: float, peers: int) -> tuple[float, float]:
    """Share of one core that the page takes, and kB/s to each viewer."""
    from duckweed.ledger.entries import Closed, Contributed, GenesisEntry, PeerEntry, RoundEntry
    from duckweed.ledger.ledger import Ledger
    from duckweed.net.identity import Identity
    from duckweed.pages.live.server import ANY, serving
    from duckweed.pages.live.site import Site
    from duckweed.run import toml
    from duckweed.run.events import RoundClosed
    from duckweed.run.folder import RunFolder
    from duckweed.run.spec import RunSpec, override

    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.path.mkdir()
        spec = override(RunSpec(), {"rounds.count": 10_000})
        folder.spec.write_text(toml.write(spec))
        key, digest = Identity(b"k" * 32), "a1" * 32
        ledger = Ledger(folder.ledger, key.sign)
        ledger.append(
            0, GenesisEntry(spec.identity, key.id, "", digest, digest, 1, digest, [], 1, digest)
        )
        everybody = list(range(peers))
        for index in everybody:
            ledger.append(0, PeerEntry(index, digest))
        said = Contributed(20_480, 3.2, digest, 1_000_000)

        def close(number: int) -> None:
            closed = Closed(
                number, everybody, [digest] * peers, [1] * peers, {}, digest, [0.1] * 75
            )
            ledger.append(
                number,
                RoundEntry(closed, dict.fromkeys(everybody, 1), dict.fromkeys(everybody, said)),
            )
            folder.record(
                RoundClosed(
                    round=number, seconds=EVERY, time=time.time(), held_out=3.0 / (number + 1)
                )
            )

        for number in range(500):
            close(number)
        with serving(Site(folder.path), ANY) as url:
            command = [
                sys.executable,
                "-m",
                "bench.live_page",
                "--watch",
                url.split(":")[2].strip("/"),
                str(viewers),
            ]
            it = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            time.sleep(2)
            began, used, own = time.monotonic(), time.process_time(), 0.0
            while time.monotonic() - began < seconds:
                mark = time.thread_time()
                close(number := number + 1)
                own += time.thread_time() - mark  # what the coordinator would do elsewhere
                time.sleep(EVERY)
            spent = time.process_time() - used - own
            lasted = time.monotonic() - began
            came = int(it.communicate()[0])
        ledger.close()
    return spent / lasted, came / lasted / 1e3 / max(1, viewers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--peers", type=int, default=20)
    parser.add_argument("--watch", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.watch:
        watch(*given.watch)
        return
    print(f"{given.peers} peers, a round every {EVERY:g} s, 500 rounds before\n")
    print("| viewers | share of a core | kB/s to each |\n|---|---|---|")
    for viewers in VIEWERS:
        share, rate = measure(viewers, given.seconds, given.peers)
        print(f"| {viewers} | {share:.1%} | {rate:.1f} |", flush=True)


if __name__ == "__main__":
    main()
