"""A process that has loaded torch and transformers once, and forks the processes which need them.

To load both takes 7 s of a core in each process; a fork takes milliseconds, and shares the memory of what
was loaded. Only Linux forks safely here; elsewhere each process is started anew, and loads for itself.
"""

import contextlib
import gc
import importlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from duckweed.process.environment import detached

FORKS = sys.platform == "linux"
HEAVY = (
    "duckweed.round.founding",
    "duckweed.swarm.peer.peer",
    "duckweed.volunteer.preflight",
    "numba",
    "transformers.models.llama.modeling_llama",  # brings what all models have in common
)
"""Modules that are loaded before the first fork. None of them starts a thread."""
LIMIT = 1 << 16  # bytes of a message between a process and its fork server


class Process(Protocol):
    """A running process, as `Child` needs it. What `subprocess.Popen` is, too."""

    stdin: Any
    stdout: Any

    def kill(self) -> None: ...
    def send_signal(self, number: int, /) -> None: ...
    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        ...


class Fork(msgspec.Struct, tag=True, frozen=True):
    """Fork a process, with three open files for its input, output and errors."""

    number: int
    module: str
    """Its `main` is called, and gives the exit code."""
    words: list[str]
    """Arguments of its command line."""


class Signal(msgspec.Struct, tag=True, frozen=True):
    """Send a signal to a forked process."""

    number: int
    signal: int


class Began(msgspec.Struct, tag=True, frozen=True):
    """A process was forked."""

    number: int
    pid: int


class Ended(msgspec.Struct, tag=True, frozen=True):
    """A forked process has ended. Its code is that of `subprocess`: minus a signal, where one ended it."""

    number: int
    code: int


def start(
    module: str, words: Sequence[str], environment: Mapping[str, str], log: Path
) -> subprocess.Popen:
    """A process of its own: `python -m module words...`; what it writes as errors is appended to `log`."""
    with log.open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            **detached(),
        )


class ForkServer:
    """The end of a fork server in the process that uses it. A context manager: on leaving, the fork server
    ends; what it has forked goes on until its input closes."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """environment: of the fork server, and of all that it forks."""
        self.environment = environment
        self._count = 0
        self._forked: dict[int, _Forked] = {}
        self._lock = threading.Lock()
        self._server: subprocess.Popen | None = None
        if not FORKS:
            return
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "duckweed.process.forkserver", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                **detached(),
            )
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the fork server."""
        if self._server is None:
            return
        self._server.kill()  # it has nothing to lose, and may be loading still
        self._server.wait()

    def start(self, module: str, words: Sequence[str], log: Path) -> Process:
        """A process that calls `main` of a module, as `python -m module words...` would. It is started anew
        where nothing can be forked."""
        if self._server is None:
            return start(module, words, self.environment, log)
        (stdin, our_in), (our_out, stdout) = os.pipe(), os.pipe()
        with self._lock:
            self._count += 1
            number = self._count
            process = self._forked[number] = _Forked(self, number, our_in, our_out)
        try:
            with log.open("ab") as errors:
                question = msgspec.json.encode(Fork(number, module, list(words)))
                socket.send_fds(self._socket, [question], [stdin, stdout, errors.fileno()])
        except OSError:  # the fork server has died
            self._forget(number)
            process.close()
            return start(module, words, self.environment, log)
        finally:
            os.close(stdin)
            os.close(stdout)
        return process

    def signal(self, number: int, signal: int) -> None:
        """The fork server sends it, which alone knows whether a process number is still that of its child."""
        with contextlib.suppress(OSError):
            self._socket.send(msgspec.json.encode(Signal(number, signal)))

    def _listen(self) -> None:
        """Take down what ends, until the fork server has ended."""
        with contextlib.suppress(OSError):
            while message := self._socket.recv(LIMIT):
                told = msgspec.json.decode(message, type=Began | Ended)
                if isinstance(told, Began):
                    self._forked[told.number].begin(told.pid)
                elif process := self._forget(told.number):
                    process.end(told.code)
        with self._lock:
            left, self._forked = list(self._forked.values()), {}
        for process in left:  # nobody can tell any more how these end
            process.end(-signal.SIGKILL)
        self._socket.close()

    def _forget(self, number: int) -> "_Forked | None":
        with self._lock:
            return self._forked.pop(number, None)


class _Forked:
    """A process that a fork server has forked."""

    def __init__(self, server: ForkServer, number: int, stdin: int, stdout: int) -> None:
        """stdin, stdout: our ends of its pipes."""
        self._server, self._number = server, number
        self.stdin, self.stdout = open(stdin, "wb"), open(stdout, "rb")  # noqa: SIM115 (kept open)
        self._begun, self._ended = threading.Event(), threading.Event()
        self._pid = self._code = 0

    @property
    def pid(self) -> int:
        """Its process number; 0 if it was never forked."""
        self._begun.wait()
        return self._pid

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        self._server.signal(self._number, number)

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(f"process {self._number}", timeout or 0.0)
        return self._code

    def begin(self, pid: int) -> None:
        """It was forked."""
        self._pid = pid
        self._begun.set()

    def end(self, code: int) -> None:
        """It has ended."""
        self._code = code
        self._begun.set()
        self._ended.set()

    def close(self) -> None:
        self.stdin.close()
        self.stdout.close()


def serve(channel: socket.socket) -> Fork | None:
    """Fork what is asked for, until the other end closes. Returns None then; and in each forked process,
    whose input and outputs are in place, what it is to do."""
    for module in HEAVY:
        importlib.import_module(module)
    gc.freeze()  # a collection would write to memory that is shared
    running: dict[int, tuple[int, int]] = {}  # by process: its number in our messages, its pidfd
    with selectors.DefaultSelector() as waiting:
        waiting.register(channel, selectors.EVENT_READ, 0)
        while True:
            for key, _ in waiting.select():
                if key.data:
                    number, watched = running.pop(key.data)
                    waiting.unregister(watched)
                    os.close(watched)
                    _, status = os.waitpid(key.data, 0)
                    code = os.waitstatus_to_exitcode(status)
                    with contextlib.suppress(OSError):  # nobody wants to know any more
                        channel.send(msgspec.json.encode(Ended(number, code)))
                    continue
                message, files, _, _ = socket.recv_fds(channel, LIMIT, 3)
                if not message:
                    return None
                told = msgspec.json.decode(message, type=Fork | Signal)
                if isinstance(told, Signal):
                    for process, (number, _) in running.items():
                        if number == told.number:
                            os.kill(process, told.signal)
                    continue
                process = os.fork()
                if process == 0:
                    os.setsid()
                    for place, file in enumerate(files):
                        os.dup2(file, place)
                        os.close(file)
                    channel.close()
                    return told
                for file in files:
                    os.close(file)
                with contextlib.suppress(OSError):
                    channel.send(msgspec.json.encode(Began(told.number, process)))
                watched = os.pidfd_open(process)
                running[process] = told.number, watched
                waiting.register(watched, selectors.EVENT_READ, process)


def main() -> int:
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        wanted = serve(channel)
    if wanted is None:
        return 0
    sys.argv = [wanted.module, *wanted.words]
    code: int = importlib.import_module(wanted.module).main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # to take apart all that was loaded would copy the memory that is shared


if __name__ == "__main__":
    sys.exit(main())
