"""The texts of the comparison: twelve domains from packages, and one of Python's standard library alone.

Debian packages are fetched with `apt-get download`, and read without being installed. A document is a file
(a text of many small pieces is cut); windows lie within documents. A tenth of the documents, by the hash of
their names, is held out, and all that are not needed for training; measured are few windows of each.
"""

import gzip
import re
import subprocess
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from duckweed.round.founding import cache_folder

DOMAINS = {
    "python": ("", r"\.py$"),
    "c": ("linux-libc-dev", r"/include/.*\.h$"),
    "javascript": ("npm", r"/lib/.*\.js$"),
    "perl": ("perl-modules-5.36", r"\.p[ml]$"),
    "html": ("git-doc", r"\.html$"),
    "fortunes": ("fortunes", r"/fortunes/[a-z-]+$"),
    "man": ("manpages-dev", r"/man[23]/.*\.gz$"),
    "german": ("manpages-de", r"/man\d/.*\.gz$"),
    "french": ("manpages-fr", r"/man\d/.*\.gz$"),
    "polish": ("manpages-pl", r"/man\d/.*\.gz$"),
    "russian": ("manpages-ru", r"/man\d/.*\.gz$"),
    "japanese": ("manpages-ja", r"/man\d/.*\.gz$"),
}
"""Name -> (Debian package, or "" for the running Python's library; pattern of its files)."""
LENGTH, PREFIX = 256, 64  # tokens that a window predicts; bytes that route it, and are not measured
SMALLEST, LARGEST = 600, 40_000  # bytes of a document; a longer one is cut
SIZE = {"domains": 1_000_000, "python": 12_000_000}  # bytes of a domain
MEASURED = 1200  # held-out windows


@dataclass(frozen=True)
class Corpus:
    """Windows of bytes uint8[N, 257], and the domain of each, by its place in `names`."""

    names: tuple[str, ...]
    train: NDArray[np.uint8]
    train_domain: NDArray[np.int64]
    held_out: NDArray[np.uint8]
    held_out_domain: NDArray[np.int64]

    def told(self) -> str:
        sizes = np.bincount(self.train_domain, minlength=len(self.names)) * LENGTH / 1e6
        return ", ".join(f"{name} {size:.2f}" for name, size in zip(self.names, sizes, strict=True))


def load(name: str) -> Corpus:
    """The corpus "domains" or "python", made where it is not in the cache."""
    path = cache_folder() / "bench-paths" / f"{name}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = make(tuple(DOMAINS) if name == "domains" else (name,), SIZE[name], path.parent)
        np.savez(path, *(made.train, made.train_domain, made.held_out, made.held_out_domain))
    with np.load(path) as arrays:
        names = tuple(DOMAINS) if name == "domains" else (name,)
        return Corpus(names, *(arrays[key] for key in arrays.files))


def make(names: tuple[str, ...], size: int, cache: Path) -> Corpus:
    """Read the domains; `cache` keeps the packages."""
    train: list[NDArray[np.uint8]] = []
    train_domain: list[int] = []
    held_out = []
    for number, name in enumerate(names):
        taken, kept = 0, []
        for key, text in sorted(documents(name, cache)):
            windows = _windows(text)
            if taken > size or int(key, 16) % 10 == 0:
                kept.append(windows)
            else:
                train.append(windows)
                train_domain.extend([number] * len(windows))
            taken += len(text)
        held_out.append(_spread(kept, MEASURED // len(names)))
    mixed = np.stack(held_out, axis=1)  # [n, domains, 257]: any beginning has all domains alike
    return Corpus(
        names,
        np.concatenate(train),
        np.array(train_domain),
        mixed.reshape(-1, LENGTH + 1),
        np.tile(np.arange(len(names)), len(mixed)),
    )


def _spread(documents: list[NDArray[np.uint8]], count: int) -> NDArray[np.uint8]:
    """`count` windows of as many different documents as there are, in an order that mixes them."""
    each = -(-count // len(documents))
    random = np.random.default_rng(0)
    found = np.concatenate([x[random.permutation(len(x))[:each]] for x in documents])
    while len(found) < count:  # some documents are shorter than that
        each += 1
        found = np.concatenate([x[random.permutation(len(x))[:each]] for x in documents])
    return found[random.permutation(len(found))[:count]]


def documents(name: str, cache: Path) -> Iterator[tuple[str, bytes]]:
    """(hash, text) of each document of a domain."""
    package, pattern = DOMAINS[name]
    for path, text in _package(package, cache) if package else _library():
        if not re.search(pattern, path):
            continue
        whole = gzip.decompress(text) if path.endswith(".gz") else text
        pieces = [whole[:LARGEST]]
        if name == "fortunes":
            pieces = [whole[at : at + 6000] for at in range(0, len(whole), 6000)]
        for number, piece in enumerate(pieces):
            if len(piece) >= SMALLEST:
                yield blake3(f"{path} {number}".encode()).hexdigest(8), piece


def _package(package: str, cache: Path) -> Iterable[tuple[str, bytes]]:
    found = list(cache.glob(f"{package}_*.deb"))
    if not found:
        subprocess.run(["apt-get", "download", package], cwd=cache, check=True, capture_output=True)
        found = list(cache.glob(f"{package}_*.deb"))
    tar = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(found[0])], stdout=subprocess.PIPE)
    with tar, tarfile.open(fileobj=tar.stdout, mode="r|") as files:
        for member in files:
            if member.isfile() and (file := files.extractfile(member)):
                yield member.name, file.read()


def _library() -> Iterable[tuple[str, bytes]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if "site-packages" not in path.parts:
            yield str(path.relative_to(root)), path.read_bytes()


def _windows(text: bytes) -> NDArray[np.uint8]:
    """uint8[n, 257] of a document: neighbours share one byte; what is left over is left out."""
    data = np.frombuffer(text, np.uint8)
    count = (len(data) - 1) // LENGTH
    return data[np.arange(count)[:, None] * LENGTH + np.arange(LENGTH + 1)]
