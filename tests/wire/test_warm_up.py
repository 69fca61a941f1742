"""What a round needs is compiled before it begins."""

import subprocess
import sys

import pytest

WATCH = """
import numpy as np
from numba.core.dispatcher import Dispatcher
from duckweed.run.layout import Layout
from duckweed.wire import codec_of, warm_up
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Integer
from duckweed.merge.outer import outer_step
from duckweed.run.sections import Outer
from duckweed.wire.feedback import carry
from duckweed.wire.kernels import chunk, fit, kept, rans, sums, vectors

def compiled():
    modules = (chunk, fit, kept, rans, sums, vectors)
    kernels = [k for module in modules for k in vars(module).values() if isinstance(k, Dispatcher)]
    return {{kernel.__name__: len(kernel.signatures) for kernel in kernels}}

wire = {wire}
warm_up(wire)
before = compiled()
layout = Layout.of({{"table": (700, 500), "gain": (500,), "scalar": (), "leaning": (600, 200)}})
x = np.random.default_rng(0).standard_normal(layout.total, np.float32)
np.abs(x[-120_000:], out=x[-120_000:])
codec, shared = codec_of(wire, layout), np.ones(4, np.float32)
blob, sent = codec.encode(x, shared)
assert codec.compress(carry(x, 0 * x, 1.0), shared) == blob
outer_step(Outer(), x, x, x)
found = codec.decode(blob, shared)
assert (found.values == sent).all()
for weights in ([1], [100] * 8) if codec.additive else ():
    total = codec.total(shared, codec.gives)
    for weight in weights:
        total.add(found, weight)
    codec.read_update(codec.update(total), shared, len(weights)).mean()
assert sum(before.values()) and compiled() == before, (before, compiled())
"""


@pytest.mark.parametrize("wire", ["Integer()", "Dense('int8')"])
def test_nothing_is_compiled_after_the_warm_up(wire):
    subprocess.run([sys.executable, "-c", WATCH.format(wire=wire)], check=True, timeout=300)
