"""What is set for a process before it begins: threads, quiet libraries, open files, signals.

Windows has neither `resource` nor signals between processes, nor loops that take signal handlers:
what differs between systems is decided here, and nowhere else.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import IO, Any

from duckweed.net.timeouts import LOOPBACK

DEFAULTS = {
    # Threads that spin while they wait slow a busy machine down tenfold; see docs/learn.md.
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # they would be drawn across our own view
    "HF_HUB_VERBOSITY": "error",  # what the hub does not give, our own message says
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",  # it warns of special tokens and the like, which we set ourselves
}
FILES = 8192  # files and sockets that a process which serves others wants to have open


def prepare() -> None:
    """Set what this process needs, where the user has not. To be called before torch is imported."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def stop_as_ctrl_c() -> None:
    """From now on SIGTERM, as `kill` sends it, ends this process in the order in which Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_: int, frame: FrameType | None) -> None:
    # Not by raising SIGINT: a shell lets what it starts in the background ignore that.
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def loopback_works() -> bool:
    """Whether processes of this machine can reach each other: a packet to 127.0.0.1 comes back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(LOOPBACK)
        try:
            one.bind(("127.0.0.1", 0))
            one.sendto(b"duckweed", one.getsockname())
            return one.recv(16) == b"duckweed"
        except OSError:
            return False


def of_child(threads: int) -> dict[str, str]:
    """The environment of a process of duckweed that computes with this many threads."""
    number = str(threads)
    return DEFAULTS | os.environ | {"OMP_NUM_THREADS": number, "DUCKWEED_THREADS": number}


def detached() -> dict[str, Any]:
    """Arguments for Popen: Ctrl-C reaches this process only, which then ends its children in order."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def ask_to_end(stdin: IO[bytes]) -> None:
    """Let a child that calls `end_with_parent` end in order: close its standard input. On Windows there
    is no other way, because terminate() kills there."""
    with contextlib.suppress(OSError):
        stdin.close()


def end_with_parent() -> None:
    """From now on this process gets a SIGTERM when its input closes: when the process that started
    it says so, or has ended itself."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while os.read(0, 1):  # not sys.stdin: its lock would be held when the interpreter ends
        pass
    signal.raise_signal(signal.SIGTERM)


def on_stop(stop: Callable[[], object]) -> None:
    """Call `stop` in the running event loop when SIGINT or SIGTERM comes."""
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(name, stop)
        except NotImplementedError:  # Windows
            signal.signal(name, lambda *_: loop.call_soon_threadsafe(stop))


def allow_files() -> None:
    """Raise the limit on open files and sockets of this process to FILES, or as near as is allowed."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
