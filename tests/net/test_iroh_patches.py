"""iroh's generated Python code as mended."""

import gc
import os
import subprocess
import sys

import pytest
from iroh import iroh_ffi

from duckweed.net import iroh_patches

# Asks over and over, and leaves streams in cycles that only the garbage collector can free. It is run
# where it does most harm: in iroh's thread, in the middle of a wake-up.
LITTER = """
import asyncio, gc, random
from iroh import iroh_ffi
from duckweed.net import iroh_patches
from duckweed.net.framing import Accepted
from duckweed.net.identity import Identity
from duckweed.net.transport import Endpoint

iroh_patches.mend()
dice, wake = random.Random(0), iroh_ffi._uniffi_continuation_callback

def collect(number, code):
    if dice.random() < 0.05:
        gc.collect()
    wake(number, code)

iroh_ffi._uniffi_continuation_callback = iroh_ffi._UNIFFI_RUST_FUTURE_CONTINUATION_CALLBACK(collect)
gc.disable()

def accept(peer, head):
    async def answer(body):
        return head, body

    return Accepted(100, answer)

async def main():
    here = await Endpoint.bind(Identity(b"h" * 32), 100, "127.0.0.1:0")
    there = await Endpoint.bind(Identity(b"t" * 32), 100, "127.0.0.1:0")
    serving = asyncio.create_task(here.serve(accept))
    link = await there.connect(here.id, here.addresses)

    async def litter():
        for _ in range(15):
            await link.ask(b"question", b"body", body_limit=100)
            stream = await link.connection.open_bi()
            cycle = [stream, stream.send(), stream.recv()]
            cycle.append(cycle)

    await asyncio.gather(*(litter() for _ in range(8)))
    del link
    gc.collect()
    await here.seen_at("127.0.0.1:9")
    print("freed" if len(iroh_patches._garbage) < 10 else iroh_patches._garbage)
    serving.cancel()
    await there.close()
    await here.close()

asyncio.run(main())
"""


def test_the_collector_may_run_in_the_middle_of_a_wake_up():
    done = subprocess.run(
        [sys.executable, "-c", LITTER], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "freed\n", done.stderr
    assert done.returncode == 0
    assert not done.stderr


def _without_insert(*_):
    return iroh_ffi._uniffi_continuation_callback, iroh_ffi._UniffiContinuationHandleMap


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("_UniffiContinuationHandleMap", None),
        ("_uniffi_continuation_callback", None),
        ("_UniffiRustBufferBuilder", object),
        ("_uniffi_rust_call_async", _without_insert),
    ],
)
def test_an_iroh_whose_code_is_another_is_refused_with_what_to_install(monkeypatch, name, other):
    """Else the mends would do nothing, and the deadlock would be back."""
    monkeypatch.setattr(iroh_ffi, name, other)
    with pytest.raises(iroh_patches.UnknownIroh, match=r"pip install 'iroh==1\.2\.\*'"):
        iroh_patches._check()


def test_an_iroh_that_frees_its_objects_elsewhere_is_refused(monkeypatch):
    monkeypatch.delattr(iroh_patches.Connection, "__del__")
    with pytest.raises(iroh_patches.UnknownIroh, match="__del__ of Connection"):
        iroh_patches._check()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_outgoing_bytes_are_copied_at_once(kind):
    """As many lines of Python for many bytes as for few; the code that UniFFI generates loops over them."""

    def copied(size):
        data, lines = os.urandom(size), 0

        def count(frame, event, argument):
            nonlocal lines
            lines += event == "line"
            return count

        iroh_patches.mend()
        buffer, before = iroh_ffi._UniffiRustBufferBuilder(), sys.gettrace()
        gc.disable()  # what it frees of other tests may have lines of Python too
        sys.settrace(count)
        try:
            buffer.write(kind(data))
        finally:
            sys.settrace(before)
            gc.enable()
        assert bytes(buffer.rbuf.data[: buffer.rbuf.len]) == data
        buffer.discard()
        return lines

    assert copied(1 << 16) == copied(100) < 100
