"""Speed and size of the wire: `python bench/wire.py`, or `speed` / `core` / `packed` / `gradients` / `work` for a part.

`speed`: synthetic pseudo-gradients of 10M and 100M values with rows and columns of uneven
activity. MB/s count the f32 vector (4 bytes a value), against a plain copy of it by numpy.
`gradients`: a Llama of 0.9M (bytes) and 1.8M (BPE of 4096) parameters, trained by four peers on
the sources of the Python standard library, exchanging over the integer wire; the size of each
kind of blob against the order-0 entropy of each tensor, at several rounds.
`core`: what one core reaches in each of the codec's jobs, in processor time and beside copies of memory that are made in turn with it;
which part of it a second thread can take; and how much faster two threads are by the clock (figures of a machine with two idle cores only).
`packed`: packing five ternary codes into a byte with zstandard behind, and zstandard alone, beside the integer wire.
`work`: seconds a value of the slowest valid blob that is found, against an honest one: of values that
say nothing or everything, and with headers altered at random.

Writes bench/results/wire.json and prints the Markdown tables of docs/wire.md.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import resource
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from functools import partial
from math import lgamma, log
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import zstandard
from numba import njit

from duckweed.run.layout import Layout
from duckweed.run.sections import Wire
from duckweed.wire import carry, codec_of, keep, threads
from duckweed.wire.codecs import sums as updates
from duckweed.wire.codecs.dense import Dense
from duckweed.wire.codecs.integer import Codes, Integer, quantise, steps
from duckweed.wire.codecs.sparse import Sparse
from duckweed.wire.codecs.sums import Sums
from duckweed.wire.entropy.signed import put_integers, take_integers
from duckweed.wire.frame import Reader, WireError, Writer

RESULTS = Path(__file__).parent / "results" / "wire.json"
SPARSE_CODES = Integer(threshold=2.0, value=2.4)
PEERS = 8


def seconds(work: Callable[[], object], repeat: int) -> float:
    """Processor seconds of the best of several runs, so that a busy machine does not count."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def entropy(codes: np.ndarray, layout: Layout) -> float:
    """Order-0 entropy of each tensor, in bits per value."""
    bits = 0.0
    for part in layout.slices():
        low = int(codes[part].min())
        count = np.zeros(int(codes[part].max()) - low + 1, np.int64)
        for start in range(part.start, part.stop, 1 << 22):
            block = codes[start : min(start + (1 << 22), part.stop)].astype(np.int64)
            count += np.bincount(block - low, minlength=len(count))
        count = count[count > 0]
        bits -= float((count * np.log2(count / count.sum())).sum())
    return bits / layout.total


def choices(wire: Sparse) -> float:
    """log2 C(chunk, keep) and two bits a value sent, in bits per value of the model."""
    n, k = wire.chunk, wire.keep
    return ((lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2) + 2 * k) / n


def synthetic(millions: int, seed: int) -> tuple[np.ndarray, np.ndarray, Layout]:
    """A transformer-like vector: bell-shaped values, log-normal activity of rows and columns."""
    width = 1024
    rows = millions * 1_000_000 // width
    layout = Layout.of(
        {"embed": (rows // 4, width)}
        | {f"layer{i}": (rows // 16, width) for i in range(12)}
        | {f"norm{i}": (width,) for i in range(12)}
    )
    x = np.random.default_rng(seed).standard_normal(layout.total, np.float32)
    shared = np.random.default_rng(0)
    for part, shape in zip(layout.slices(), layout.shapes, strict=True):
        if len(shape) == 2:
            matrix = x[part].reshape(shape)
            matrix *= np.exp(0.5 * shared.standard_normal((shape[0], 1), np.float32))
            matrix *= np.exp(0.3 * shared.standard_normal((1, shape[1]), np.float32))
    scales = [
        np.sqrt(np.vdot(x[part], x[part]) / (part.stop - part.start)) for part in layout.slices()
    ]
    return x, np.array(scales, np.float32), layout


def speed(millions: int, repeat: int) -> list[dict]:
    x, scales, layout = synthetic(millions, 1)
    megabytes = 4 * layout.total / 1e6
    spare = x.copy()
    copy = seconds(lambda: np.copyto(spare, x), 5)
    rows = [{"what": "copy by numpy", "millions": millions, "compress": round(megabytes / copy)}]

    def row(what: str, **figures: float | None) -> None:
        rows.append({"what": what, "millions": millions, **figures})
        print(rows[-1], file=sys.stderr, flush=True)

    def rate(work: Callable[[], object]) -> int:
        return round(megabytes / seconds(work, repeat))

    def measure(what: str, wire: Wire, bound: float | None, **more: float) -> bytes:
        blob = codec_of(wire, layout).encode(x, scales).blob
        row(
            what,
            compress=rate(lambda: codec_of(wire, layout).encode(x, scales)),
            **more,
            decode=rate(lambda: codec_of(wire, layout).decode(blob, scales)),
            bits=round(8 * len(blob) / layout.total, 4),
            bound=bound and round(bound, 4),
        )
        return blob

    for what, wire in (("integer, threshold 1", Integer()), ("integer, threshold 2", SPARSE_CODES)):
        codes = quantise(wire, x, layout, scales)
        writing = rate(lambda c=codes: put_integers(Writer(3, b"rate"), c, 1, layout))
        measure(what, wire, entropy(codes, layout), encode=writing)
    measure("sparse, 64 of 4096", Sparse(), choices(Sparse()))
    measure("dense bf16", Dense("bf16"), None)
    measure("dense int8", Dense("int8"), None)
    row(f"update of {PEERS}, threshold 2", **update_speed(millions, rate))
    return rows


def update_speed(millions: int, rate: Callable[[Callable[[], object]], int]) -> dict:
    """Summing the codes of eight peers, and coding the sum."""
    total: Sums | None = None
    for peer in range(PEERS):
        x, scales, layout = synthetic(millions, peer + 2)
        step = steps(SPARSE_CODES, scales, layout)
        codes = Codes(quantise(SPARSE_CODES, x, layout, scales), step, layout)
        del x
        total = total or Sums(layout, step, 1)
        total.add(codes, 1)
    assert total is not None
    blob = updates.encode(total)
    spare = Sums(layout, step, 1)
    return {
        "merge": rate(lambda: spare.add(codes, 1)),
        "encode": rate(lambda: updates.encode(total)),
        "decode": rate(lambda: updates.decode(blob, layout, step, 1, PEERS)),
        "bits": round(8 * len(blob) / layout.total, 4),
        "bound": round(entropy(total.sums, layout), 4),
    }


class InTurn:
    """Some work and copying a vector of its size, in turn; and the work with one and with two threads, in turn; so that what
    else the machine does meets both. The work finds `spare` filled with x."""

    def __init__(self, x: np.ndarray, repeat: int) -> None:
        self.x, self.spare, self.repeat = x, x.copy(), repeat

    def figures(self, work: Callable[[], object]) -> dict:
        """In processor time, medians: MB/s of float32, the share of a copy's speed, and of two threads the part that the
        first does alone. By the clock: how much faster two threads are, the median of pairs and that of the best of each."""
        work()
        took, copied, alone, clock = [], [], [], {1: [0.0], 2: [0.0]}
        for count in clock:  # the threads have started, their memory is there
            self._timed(work, count)
        for _ in range(self.repeat):
            copied.append(_used(lambda: np.copyto(self.spare, self.x)).all)
            one = self._timed(work, 1)
            two = self._timed(work, 2)
            took.append(one.all)
            alone.append(two.this / two.all)
            clock[1].append(one.clock)
            clock[2].append(two.clock)
        ones, twos = clock[1][1:], clock[2][1:]
        return {
            "MB/s": round(self.x.nbytes / 1e6 / median(took)),
            "of a copy": round(median(c / t for c, t in zip(copied, took, strict=True)), 3),
            "not shared": f"{100 * median(alone):.0f} %",
            "1 thread": round(self.x.nbytes / 1e6 / min(ones)),
            "2 threads": round(self.x.nbytes / 1e6 / min(twos)),
            "faster": round(min(ones) / min(twos), 2),
            "faster, median": round(median(a / b for a, b in zip(ones, twos, strict=True)), 2),
        }

    def _timed(self, work: Callable[[], object], count: int) -> Used:
        np.copyto(self.spare, self.x)
        threads.use(count)
        used = _used(work)
        threads.use(1)
        return used


class Used(NamedTuple):
    """Seconds."""

    all: float
    """Of the processors."""
    this: float
    """Of the processors, by this thread."""
    clock: float


def _used(work: Callable[[], object]) -> Used:
    all_, this, clock = time.process_time(), time.thread_time(), time.perf_counter()
    work()
    return Used(time.process_time() - all_, time.thread_time() - this, time.perf_counter() - clock)


def core(millions: int, repeat: int) -> list[dict]:
    x, scales, layout = synthetic(millions, 1)
    turn, rows = InTurn(x, repeat), []

    def row(wire: str, job: str, work: Callable[[], object]) -> None:
        rows.append({"wire": wire, "job": job, **turn.figures(work)})
        print(rows[-1], file=sys.stderr, flush=True)

    row("copy by numpy", "", lambda: np.copyto(turn.spare, x))
    wires = {
        "integer, threshold 1": Integer(),
        "integer, threshold 2": SPARSE_CODES,
        "int8": Dense("int8"),
    }
    for what, wire in wires.items():
        codec = codec_of(wire, layout)
        blob = codec.encode(x, scales).blob
        row(what, "compress", lambda codec=codec: codec.compress(turn.spare, scales))
        if isinstance(wire, Integer):
            codes = quantise(wire, x, layout, scales)
            row(what, "encode", lambda c=codes: put_integers(Writer(3, b"rate"), c, 1, layout))
        row(what, "decode", lambda codec=codec, blob=blob: codec.decode(blob, scales))
        found, total = codec.decode(blob, scales), codec.total(scales)
        row(what, "accumulate", lambda total=total, found=found: total.add(found, 1))
    return rows


def packed(millions: int, repeat: int) -> list[dict]:
    """Ternary codes of a given density by the integer wire, by five of them to a byte and zstandard, and by zstandard
    alone; level 1."""
    x, scales, layout = synthetic(millions, 1)
    turn, rows = InTurn(x, repeat), []
    relative = np.concatenate(
        [np.abs(x[part]) / s for part, s in zip(layout.slices(), scales, strict=True)]
    )
    for density in (0.03, 0.1, 0.3):
        wire = Integer(threshold=float(np.quantile(relative, 1 - density)), value=2.0)
        codes = quantise(wire, x, layout, scales)
        bound = entropy(codes, layout)

        def integers(codes: np.ndarray = codes) -> bytes:
            writer = Writer(3, b"rate")
            put_integers(writer, codes, 1, layout)
            return writer.blob()

        ways: dict[str, tuple[Callable[[], bytes], Callable[[bytes], object]]] = {
            "integer wire": (
                integers,
                lambda b: take_integers(Reader(b, 3, b"rate"), 1, layout, np.int8),
            ),
            "five to a byte, zstandard": (
                lambda c=codes: SQUEEZE.compress(five_to_a_byte(c)),
                lambda b: five_of_a_byte(
                    np.frombuffer(EXPAND.decompress(b), np.uint8), layout.total
                ),
            ),
            "zstandard alone": (
                lambda c=codes: SQUEEZE.compress(c),
                lambda b: np.frombuffer(EXPAND.decompress(b), np.int8),
            ),
        }
        for way, (encode, decode) in ways.items():
            blob = encode()
            given = decode(blob)
            assert np.array_equal(given[0] if isinstance(given, tuple) else given, codes), way
            there, back = turn.figures(encode), turn.figures(lambda d=decode, b=blob: d(b))
            rows.append({
                "density": density, "way": way, "bits": round(8 * len(blob) / layout.total, 4),
                "over the entropy": f"{100 * (8 * len(blob) / layout.total / bound - 1):+.1f} %",
                "encode MB/s": there["MB/s"], "of a copy": there["of a copy"],
                "decode MB/s": back["MB/s"], "of a copy ": back["of a copy"],
            })  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    return rows


SQUEEZE, EXPAND = zstandard.ZstdCompressor(level=1), zstandard.ZstdDecompressor()


def five_to_a_byte(codes: np.ndarray) -> np.ndarray:
    """Ternary codes, int8[P], as uint8[P / 5 rounded up]."""
    out = np.zeros(-(-len(codes) // 5), np.uint8)
    _pack(codes, out)
    return out


def five_of_a_byte(packed: np.ndarray, count: int) -> np.ndarray:
    out = np.empty(count, np.int8)
    digits = np.arange(243)[:, None] // 3 ** np.arange(5) % 3 - 1
    _unpack(packed, out, digits.astype(np.int8))
    return out


@njit(nogil=True)
def _pack(codes, out):  # type: ignore[no-untyped-def]
    whole = len(codes) // 5
    for i in range(whole):
        c = codes[5 * i : 5 * i + 5]
        out[i] = np.uint8(
            (c[0] + 1) + 3 * (c[1] + 1) + 9 * (c[2] + 1) + 27 * (c[3] + 1) + 81 * (c[4] + 1)
        )
    power = 1
    for j in range(5 * whole, len(codes)):
        out[whole] += np.uint8(power * (codes[j] + 1))
        power *= 3


@njit(nogil=True)
def _unpack(packed, out, digits):  # type: ignore[no-untyped-def]
    whole = len(out) // 5
    for i in range(whole):
        of, at = digits[packed[i]], out[5 * i : 5 * i + 5]
        for j in range(5):
            at[j] = of[j]
    for j in range(5 * whole, len(out)):
        out[j] = digits[packed[whole], j - 5 * whole]


def gradients(vocabulary: int, wire: Integer, rounds: tuple[int, ...]) -> list[dict]:
    """Sizes on real pseudo-gradients: train, exchange, and measure at the given rounds."""
    rows: list[dict] = []
    memory = np.zeros(0, np.int32)
    for round_, layout, codes, x in train(vocabulary, wire, max(rounds)):
        before, sums = memory, np.sum(codes, axis=0, dtype=np.int32)
        memory = 4 * np.clip(sums, -4, 4) + (np.trunc(before / 2) if round_ else 0)
        if round_ not in rounds:
            continue
        ones = np.ones(len(layout.sizes), np.float32)
        as_is = Integer(threshold=0.5, value=1.0)
        one = codec_of(as_is, layout).encode(codes[0].astype(np.float32), ones).blob
        total = Sums(layout, ones, 1)
        for one_of in codes:
            total.add(Codes(one_of, ones, layout), 1)
        update = updates.encode(total)
        top = {k: codec_of(Sparse(keep=k), layout).encode(x, None).blob for k in (64, 256)}
        figures = {
            "contribution": (one, entropy(codes[0], layout)),
            f"update of {len(codes)}": (update, entropy(sums, layout)),
            "sparse 64": (top[64], choices(Sparse())),
            "sparse 256": (top[256], choices(Sparse(keep=256))),
        }
        for what, (blob, bound) in figures.items():
            bits = 8 * len(blob) / layout.total
            setting = {"vocabulary": vocabulary, "threshold": wire.threshold, "round": round_}
            rows.append({**setting, "what": what, "bits": round(bits, 4), "bound": round(bound, 4)})
            print(rows[-1], file=sys.stderr, flush=True)
        for what, numbers in (("contribution", codes[0]), (f"update of {len(codes)}", sums)):
            given = conditional_entropy(numbers, before.astype(np.int64), layout)
            bound = round(entropy(numbers, layout), 4)
            what = f"{what}, entropy given the sums of earlier rounds"
            rows.append({**setting, "what": what, "bits": round(given, 4), "bound": bound})
    return rows


def conditional_entropy(codes: np.ndarray, memory: np.ndarray, layout: Layout) -> float:
    """Entropy of a code within its tensor, given what earlier rounds did there; bits per value."""
    bits = 0.0
    for part in layout.slices():
        kind = (memory[part] - memory[part].min()) * 4096
        kinds = np.unique(kind, return_counts=True)[1]
        pairs = np.unique(kind + codes[part], return_counts=True)[1]
        bits += float((kinds * np.log2(kinds)).sum() - (pairs * np.log2(pairs)).sum())
    return bits / layout.total


def train(
    vocabulary: int, wire: Integer, rounds: int, peers: int = 4, steps: int = 15
) -> Iterator[tuple[int, Layout, list[np.ndarray], np.ndarray]]:
    """After each round its number, the layout, the codes of all peers, and what the first of them
    compressed. AdamW inside, mean and Nesterov momentum (0.7, 0.6) outside, error feedback."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens = torch.from_numpy(corpus(vocabulary))
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=344,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
        )
    )
    parameters = list(model.parameters())
    layout = Layout.of({name: tuple(p.shape) for name, p in model.named_parameters()})
    parts = layout.slices()
    weights = torch.nn.utils.parameters_to_vector(parameters).detach().numpy().copy()
    momentum = np.zeros_like(weights)
    residuals = [np.zeros_like(weights) for _ in range(peers)]
    inner: list[dict | None] = [None] * peers
    scales = np.zeros(0, np.float32)
    draw = torch.Generator().manual_seed(1)
    for round_ in range(rounds + 1):
        xs = []
        for peer in range(peers):
            torch.nn.utils.vector_to_parameters(torch.from_numpy(weights.copy()), parameters)
            optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)
            if inner[peer]:
                optimizer.load_state_dict(inner[peer])
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = 2e-3 * min(1, (round_ * steps + step + 1) / 100)
                starts = torch.randint(len(tokens) - 129, (4,), generator=draw).tolist()
                batch = torch.stack([tokens[i : i + 128] for i in starts])
                model(batch, labels=batch).loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad()
            inner[peer] = copy.deepcopy(optimizer.state_dict())
            after = torch.nn.utils.parameters_to_vector(parameters).detach().numpy()
            xs.append(carry(weights - after, residuals[peer], wire.feedback))
        sizes = [[np.sqrt(np.mean(x[part] ** 2)) for part in parts] for x in xs]
        latest = np.median(sizes, axis=0).astype(np.float32)
        scales = scales if round_ else latest
        blobs = [codec_of(wire, layout).encode(x, scales) for x in xs]
        residuals = [keep(x, blob.sent) for x, blob in zip(xs, blobs, strict=True)]
        decoded = [codec_of(wire, layout).decode(blob.blob, scales) for blob in blobs]
        yield round_, layout, [d.codes for d in decoded], xs[0]
        mean = np.mean([blob.sent for blob in blobs], axis=0)
        momentum = 0.6 * momentum + mean
        weights = weights - np.float32(0.7) * (mean + np.float32(0.6) * momentum)
        scales = latest


def corpus(vocabulary: int) -> np.ndarray:
    """The sources of the standard library as tokens, int64[N]: bytes, or a BPE trained on them."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in root.glob("*.py")) + sorted(root.glob("[a-z]*/*.py"))
    files = [path for path in files if not {"test", "site-packages"} & set(path.parts)][:400]
    data = b"".join(path.read_bytes() for path in files)
    if vocabulary == 256:
        return np.frombuffer(data, np.uint8).astype(np.int64)
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    pieces = [data[i : i + 10_000].decode("latin1") for i in range(0, len(data), 10_000)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(pieces, trainers.BpeTrainer(vocab_size=vocabulary, show_progress=False))
    return np.array([token for piece in bpe.encode_batch(pieces) for token in piece.ids])


def work(millions: int, tries: int = 40) -> list[dict]:
    """For each wire the slowest valid blob: nanoseconds a value, and times the honest one's."""
    x, scales, layout = synthetic(millions, 1)
    largest, none = np.full_like(x, 1e6), np.zeros_like(x)
    columns = np.resize(np.array([1e6, -1e6, 1e6], np.float32), layout.total)
    dice, rows = np.random.default_rng(0), []
    for what, wire in (
        ("integer, threshold 1", Integer()),
        ("integer, 7 levels", Integer(threshold=0.3, value=0.5, levels=7)),
        ("sparse, 64 of 4096", Sparse()),
        ("dense int8", Dense("int8")),
    ):
        codec = codec_of(wire, layout)
        honest = codec.encode(x, scales).blob
        blobs = {"as it is": honest}
        for name, values in (("largest", largest), ("zeros", none), ("one sign a column", columns)):
            blobs[name] = codec.encode(values, scales).blob
        refused = 0
        for number in range(tries):
            name = list(blobs)[number % 4]
            blob = bytearray(blobs[name])
            for at in dice.integers(8, min(len(blob), 60), 2):
                blob[at] = dice.integers(0, 256)
            try:
                codec.decode(bytes(blob), scales)
                blobs[f"{name}, altered {number}"] = bytes(blob)
            except WireError:
                refused += 1
        took = {
            name: seconds(partial(codec.decode, blob, scales), 3) for name, blob in blobs.items()
        }
        worst = max(took, key=took.__getitem__)
        rows.append(
            {
                "what": what, "millions": millions, "honest, ns a value": round(1e9 * took["as it is"] / layout.total, 1),
                "worst, ns a value": round(1e9 * took[worst] / layout.total, 1),
                "times": round(took[worst] / took["as it is"], 2), "worst": worst,
                "altered": tries, "of them valid": tries - refused,
            }
        )  # fmt: skip
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def table(rows: list[dict], columns: list[str]) -> str:
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [
        " | ".join(str(row.get(c) if row.get(c) is not None else "") for c in columns)
        for row in rows
    ]
    return "\n".join(f"| {line} |" for line in lines)


def main() -> None:
    only = sys.argv[1] if len(sys.argv) > 1 else ""
    new: dict = {"machine": f"{platform.machine()}, numpy {np.__version__}, one thread"}
    if only in ("", "speed"):
        new["speed"] = speed(10, 3) + speed(100, 1)
        new["peak memory, GiB"] = round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1
        )
    if only in ("", "core"):
        new["core"] = core(10, 7)
        new["core, load"] = [round(load, 1) for load in os.getloadavg()]
    if only in ("", "packed"):
        new["packed"] = packed(10, 3)
    if only in ("", "gradients"):
        sparser = Integer(threshold=2.0, value=2.4, feedback=0.9)
        new["gradients"] = gradients(256, Integer(), (1, 5, 10))
        new["gradients"] += gradients(256, sparser, (1, 5, 10))
        new["gradients"] += gradients(4096, sparser, (1, 5, 10))
        for row in new["gradients"]:
            row["change"] = f"{100 * (row['bits'] / row['bound'] - 1):+.1f} %"
    if only in ("", "work"):
        new["work"] = work(1)
    results = json.loads(RESULTS.read_text()) | new if RESULTS.exists() else new
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    for name, columns in {
        "speed": ["what", "millions", "compress", "encode", "merge", "decode", "bits", "bound"],
        "core": [
            "wire",
            "job",
            "MB/s",
            "of a copy",
            "not shared",
            "1 thread",
            "2 threads",
            "faster",
            "faster, median",
        ],
        "packed": [
            "density",
            "way",
            "bits",
            "over the entropy",
            "encode MB/s",
            "of a copy",
            "decode MB/s",
            "of a copy ",
        ],
        "work": ["what", "millions", "honest, ns a value", "worst, ns a value", "times", "worst"],
        "gradients": ["vocabulary", "threshold", "round", "what", "bits", "bound", "change"],
    }.items():
        if name in results:
            print(f"\n{table(results[name], columns)}")
    print(f"\n{results['machine']}; peak memory {results.get('peak memory, GiB')} GiB")


if __name__ == "__main__":
    main()
