"""Mends of the Python code that UniFFI generates for iroh 1.2.

iroh wakes Python from a thread of its own, often while that thread holds the lock of a connection. Code
that runs there must not call iroh again: the call would wait for that lock for ever, and with it every
link of the process. The generated code lets that happen: the garbage collector may run in any thread,
this one too, and frees the streams and connections that it finds. So finalizers free nothing here: it
is done later, on the event loop. And what that thread touches has no lock, because the collector may
interrupt the thread that holds it.
"""

import asyncio
import contextlib
import ctypes
import itertools
from collections import deque
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any

from iroh import (
    Accepting,
    BiStream,
    Connecting,
    Connection,
    Endpoint,
    Incoming,
    RecvStream,
    SendStream,
    iroh_ffi,
)

LINKED = (Accepting, BiStream, Connecting, Connection, Endpoint, Incoming, RecvStream, SendStream)
"""Kinds of objects that lock a connection when they are freed."""

_garbage: deque[tuple[Callable[[Any], None], Any]] = deque()  # what to free, and how


class Handles:
    """Futures that iroh will wake, by number. Of operations that are atomic in CPython."""

    def __init__(self) -> None:
        self._count = itertools.count(1, 2)  # odd, as numbers given by Python must be
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[int]]] = {}

    def insert(self, waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[int]]) -> int:
        number = next(self._count)
        self._waiting[number] = waiting
        return number

    def wake(self, number: int, code: int) -> None:
        """Runs in iroh's thread. The future is resolved and forgotten on its event loop, where freeing
        objects does no harm; if that loop is closed, it is never forgotten."""
        loop, _ = self._waiting[number]
        with contextlib.suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(self._resolve, number, code)

    def _resolve(self, number: int, code: int) -> None:
        _, future = self._waiting.pop(number)
        if not future.done():
            future.set_result(code)
        free_garbage()


def free_garbage() -> None:
    while _garbage:
        free, thing = _garbage.popleft()
        free(thing)


def _free_later(kind: type) -> None:
    free, later = kind.__del__, _garbage.append  # type: ignore[attr-defined]
    kind.__del__ = lambda thing: later((free, thing))  # type: ignore[attr-defined]


def _write_at_once(self: Any, value: Any) -> None:
    """Append bytes to an outgoing buffer by one copy. iroh's generated code does so byte by byte in
    Python, at 7 MiB/s with a core burnt."""
    view = memoryview(value).cast("B")
    if view.nbytes:
        with self._reserve(view.nbytes):
            target = ctypes.addressof(self.rbuf.data.contents) + self.rbuf.len
            source = (
                bytes(view) if view.readonly else (ctypes.c_char * view.nbytes).from_buffer(view)
            )
            ctypes.memmove(target, source, view.nbytes)


class UnknownIroh(RuntimeError):
    """The installed iroh is not one whose generated code can be mended; says what to install."""


def _check() -> None:
    """Whether the generated code is the one that was read when these mends were written: what is
    replaced is there, and it is what the generated code uses. Raises UnknownIroh."""
    used = {
        "_uniffi_rust_call_async": {
            "_uniffi_continuation_callback", "_UniffiContinuationHandleMap", "insert",
        },
        "_uniffi_continuation_callback": set(),
        "_UNIFFI_RUST_FUTURE_CONTINUATION_CALLBACK": set(),
        "_UniffiContinuationHandleMap": set(),
        "_UniffiRustBufferBuilder": set(),
    }  # fmt: skip
    wrong = []
    for name, reads in used.items():
        found = getattr(iroh_ffi, name, None)
        read = set(found.__code__.co_names) if reads and found is not None else reads
        if found is None or not reads <= read:
            wrong.append(name)
    builder = getattr(iroh_ffi, "_UniffiRustBufferBuilder", None)
    wrong += [f"{name} of buffers" for name in ("write", "_reserve") if not hasattr(builder, name)]
    wrong += [f"__del__ of {kind.__name__}" for kind in LINKED if "__del__" not in vars(kind)]
    if wrong:
        raise UnknownIroh(
            f"iroh {version('iroh')} is not supported: duckweed corrects faults of iroh's Python "
            f"code that end in a deadlock, and does not find them there ({', '.join(wrong)}). "
            "Install a version that it knows: pip install 'iroh==1.2.*'"
        )


@cache
def mend() -> None:
    """To be called before anything of iroh is used; only the first call of a process does something.
    Raises UnknownIroh."""
    _check()
    handles = Handles()
    iroh_ffi._UniffiContinuationHandleMap = handles  # type: ignore[assignment]
    iroh_ffi._uniffi_continuation_callback = iroh_ffi._UNIFFI_RUST_FUTURE_CONTINUATION_CALLBACK(
        handles.wake
    )
    iroh_ffi._UniffiRustBufferBuilder.write = _write_at_once  # type: ignore[method-assign]
    for kind in LINKED:
        _free_later(kind)
