"""English prose for a run: quotations, verse and dialogue, of Debian's package `fortunes`."""

from pathlib import Path

from bench.paths.corpus import documents
from duckweed.round.founding import cache_folder


def text() -> Path:
    """A file with all of it, 2 MB, made where it is not in the cache."""
    path = cache_folder() / "bench-front" / "prose.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = [piece for _, piece in sorted(documents("fortunes", path.parent))]
        path.write_bytes(b"\n".join(found).decode("utf-8", "replace").encode())
    return path
