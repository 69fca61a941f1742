"""The figures of a family of runs, and its page."""

import math

import msgspec
import numpy as np

from duckweed.pages.page import page, table
from duckweed.run.units import show_count

WORTH = (
    "What a family is worth is open: small ones that we measured were no better than one dense model of a path's "
    "size, others' large ones as good as a dense model of 4 to 9 times that, and none as good as one of their "
    "total size. A single path is no general model: on text of another path it is far worse than the common start."
)
"""What such a system is and is not (docs/paths.md says where the figures come from)."""
HEAD = ("path", "peers", "its text", "passes", "tokens", "held out", "common start", "path")


class PathFigures(msgspec.Struct, frozen=True):
    """A path. Losses are of the held-out sequences that are routed to it, behind the prefix, nats per token."""

    name: str
    peers: int
    rounds: int
    """Closed."""
    sequences: int
    """Training sequences that it was given."""
    share: float
    """Of all training sequences."""
    tokens: int
    """That it trained on, after the common start."""
    held_out: int
    """Held-out sequences that are routed to it."""
    bytes_per_token: float
    """Of their text."""
    before: float
    """Loss of the common start's last weights."""
    after: float
    """Loss of the path's own."""

    @property
    def bits(self) -> tuple[float, float]:
        """Before and after, bits per byte."""
        scale = math.log(2) * self.bytes_per_token
        return self.before / scale, self.after / scale


class Figures(msgspec.Struct, frozen=True):
    """A family."""

    parameters: int
    """Of one path: what a peer holds."""
    peers: int
    """That the family began with."""
    common_rounds: int
    common_tokens: int
    prefix: int
    """Tokens of a sequence that route it."""
    sequence: int
    """Targets of a sequence."""
    paths: list[PathFigures]
    trunk: int = 0
    """Parameters that all paths hold in common."""

    @property
    def total(self) -> int:
        """Parameters of all paths together."""
        return self.trunk + (self.parameters - self.trunk) * len(self.paths)

    @property
    def tokens(self) -> int:
        """That all runs together trained on."""
        return self.common_tokens + sum(path.tokens for path in self.paths)

    @property
    def bits(self) -> tuple[float, float]:
        """Held-out bits per byte of all text: under the common start, and each sequence under its path."""
        weights = np.array([path.held_out for path in self.paths])
        text = (weights * [path.bytes_per_token for path in self.paths]).sum() * math.log(2)
        nats = np.array([(path.before, path.after) for path in self.paths]).T
        before, after = (nats * weights).sum(axis=1) / text
        return float(before), float(after)

    def passes(self, path: PathFigures) -> float:
        """How often a path has read each of its training sequences, on average."""
        return path.tokens / (path.sequences * self.sequence)

    def rows(self) -> list[list[str]]:
        """A row of HEAD for each path; losses in bits per byte."""
        return [
            [
                path.name,
                f"{path.peers}",
                f"{path.share:.1%}",
                f"{self.passes(path):.2g}",
                show_count(path.tokens),
                f"{path.held_out:,} sequences",
                *(f"{bits:.3f}" for bits in path.bits),
            ]
            for path in self.paths
        ]

    def sentences(self) -> list[str]:
        """The verdict, and what it is about."""
        before, after = self.bits
        common = f", {self.trunk:,} of them in common" if self.trunk else ""
        change = f"{abs(1 - after / before):.1%} {'fewer' if after < before else 'more'}"
        return [
            f"{before:.3f} -> {after:.3f} bits per byte of held-out text, {change}: the common start on all of it, "
            "and each sequence under the path that it is routed to. The first "
            f"{self.prefix} tokens of each sequence route it and are in neither figure. The common start was "
            "trained for less; only a run without [paths] tells how one model does that is trained for as long.",
            f"{len(self.paths)} paths of {self.parameters:,} parameters{common}, {self.total:,} in all; a peer holds one "
            "path. "
            f"{show_count(self.tokens)} tokens, {show_count(self.common_tokens)} of them in the {self.common_rounds} "
            "rounds of the common start.",
        ]


def family_page(name: str, figures: Figures) -> str:
    """The page of a family, as HTML."""
    verdict, facts = figures.sentences()
    paths = table(HEAD, figures.rows())
    links = ["common", *(path.name for path in figures.paths)]
    return page(
        "family.html", name, {}, verdict=verdict, facts=facts, worth=WORTH, paths=paths, runs=links
    )
