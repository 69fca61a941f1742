"""A finished family at work: a text is routed by its first tokens, and one path at a time is held in memory.

What is shorter than the prefix is routed by the tokens that it has; without any it goes to the path whose bias
is greatest, which is no better than chance. `mix` paths may be mixed. Each begins with the share that the router gives it
(the softmax of its scores, in nats, divided by TEMPERATURE), which grows with how well it has predicted the text since: the
posterior of a Bayesian mixture (docs/paths-measured.md, "Mixing paths").
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from duckweed import session
from duckweed.family.folder import FamilyFolder, name_of
from duckweed.learn.data import dataset as datasets
from duckweed.learn.data import tokenizer as tokenizers
from duckweed.learn.data.reading import DataError
from duckweed.learn.data.router import UNIT, Router
from duckweed.learn.device import choose, precision_for
from duckweed.learn.model.generation import Mixture
from duckweed.learn.model.given import model_in
from duckweed.learn.model.network import Network
from duckweed.learn.model.talk import Talk
from duckweed.pages.run_summary import bits_per_byte
from duckweed.round import export
from duckweed.run.folder import model_folder
from duckweed.session import Evaluation, Say

TEMPERATURE = 4.0
"""Measured with two paths mixed: with 1 the router is too sure of itself, with 16 too little."""


class Choice(NamedTuple):
    """The paths that a text goes to, the likeliest first."""

    paths: list[int]
    shares: list[float]
    """Of each in the mixture; they add up to 1."""
    seen: int
    """Tokens that decided it."""
    prefix: int
    """Tokens that would, of a longer text."""

    def told(self) -> str:
        """In words, one line."""
        names = " and ".join(
            name_of(path) + (f" ({share:.0%})" if len(self.paths) > 1 else "")
            for path, share in zip(self.paths, self.shares, strict=True)
        )
        short = (
            f"only {self.seen} of the {self.prefix}"
            if self.seen < self.prefix
            else f"its first {self.prefix}"
        )
        return f"routed to {names} by {short} tokens" + (
            " that decide: a longer prompt is routed better" if self.seen < self.prefix else ""
        )


def route(folder: FamilyFolder, text: str, mix: int = 1) -> Choice:
    """The path of a text, or the `mix` likeliest. Raises FolderError, DataError."""
    router = folder.read_router()
    ids = tokenizers.load(model_folder(folder.of_path(0).path)).encode([text])[0][: router.prefix]
    top, shares = _chosen(router, np.asarray(ids)[None], mix)
    return Choice(top[0].tolist(), shares[0].tolist(), len(ids), router.prefix)


def generate(
    folder: FamilyFolder,
    prompt: str,
    tokens: int,
    temperature: float,
    seed: int,
    device: str,
    top_p: float,
    write: Say | None,
    say: Say,
    mix: int = 1,
) -> str:
    """The prompt continued by its path; with mix = 2 by the likeliest two, both of which are then in memory. say: told
    where it was routed; else as `session.generate`. Raises FolderError, DataError, ModelError."""
    choice = route(folder, prompt, mix)
    say(choice.told())
    place = choose(device)
    model, mixture = _model(folder, choice.paths[0]), _mixture(folder, choice, place)
    return export.generate(model, prompt, tokens, temperature, seed, place, top_p, write, mixture)


def talk(
    folder: FamilyFolder, first: str, device: str, seed: int, system: str, say: Say, mix: int = 1
) -> Talk:
    """A conversation with the path of what is said first, or with its `mix` likeliest; it keeps them to its end. Raises
    FolderError, DataError, ModelError."""
    choice = route(folder, first, mix)
    say(choice.told())
    place = choose(device)
    model, mixture = _model(folder, choice.paths[0]), _mixture(folder, choice, place)
    return Talk(model, place, seed, system, mixture)


class Measured(NamedTuple):
    """How well a family predicts a text."""

    whole: Evaluation
    """Behind the prefix of each sequence."""
    shares: dict[str, float]
    """Of the sequences, by the name of the path that each went to first."""


def evaluate(
    folder: FamilyFolder,
    texts: Sequence[str],
    field: str,
    encoding: str,
    device: str,
    say: Say,
    limit: int | None = None,
    mix: int = 1,
) -> Measured:
    """Measure a family on other texts, in sequences as in training: each is routed by its first tokens, and the tokens
    behind them are measured under its path. Arguments as of `session.evaluate`; mix: paths that are mixed. Raises
    FolderError, DataError, ModelError."""
    spec, router, place = folder.read_spec(), folder.read_router(), choose(device)
    dataset = session.texts_for(_model(folder, 0), texts, field, encoding, limit, say)
    length = min(spec.model.sequence, len(dataset.held_out) - 1)
    if length < router.prefix:
        raise DataError(
            f"data: {len(dataset.held_out):,} tokens, of which the first {router.prefix} route the text and are "
            "not measured; give a longer text"
        )
    windows = np.concatenate(list(datasets.held_out_batches(dataset, length)))
    top, shares = _chosen(router, windows, mix)
    nats = np.empty((*top.shape, length + 1 - router.prefix), np.float32)
    dtype = precision_for(place, spec.inner.precision)
    for path in range(router.count):
        rows, ranks = np.nonzero(top == path)
        if not len(rows):
            continue
        say(f"measuring {len(rows):,} sequences with {name_of(path)}")
        network = Network(model_in(_model(folder, path)).to(place).eval(), place, dtype)
        nats[rows, ranks] = _nats(network, windows[rows], router.prefix, place)
    mixed = _posterior(shares, nats)
    loss = float(mixed.mean(dtype=np.float64))
    bits = bits_per_byte(loss, export.bytes_per_token(dataset))
    whole = Evaluation(loss, bits, mixed.size, dataset.manifest.held_out_bytes)
    counts = np.bincount(top[:, 0], minlength=router.count) / len(top)
    return Measured(whole, {name_of(path): float(x) for path, x in enumerate(counts) if x})


def _posterior(shares: NDArray[np.float64], nats: NDArray[np.float32]) -> NDArray[np.float64]:
    """The loss of each token of windows under a mixture of paths, f64[N, n]. shares: of each path at first, [N, mix]; nats:
    the losses under each, [N, mix, n]."""
    with np.errstate(divide="ignore"):
        weights = np.repeat(np.log(shares)[:, :, None], nats.shape[2], axis=2)
    weights[:, :, 1:] -= np.cumsum(nats, axis=2, dtype=np.float64)[:, :, :-1]
    weights -= np.logaddexp.reduce(weights, axis=1, keepdims=True)
    return -np.logaddexp.reduce(weights - nats, axis=1)


@torch.no_grad()
def _nats(network: Network, windows: NDArray[np.int64], prefix: int, device: str) -> np.ndarray:
    """f32[n, l - prefix] of windows int64[n, l]: the loss of each token behind the prefix."""
    found = []
    for first in range(0, len(windows), export.EVALUATION_BATCH):
        some = torch.from_numpy(windows[first : first + export.EVALUATION_BATCH]).to(device)
        nats = network.nats(some[:, 1:], input_ids=some[:, :-1])
        found.append(nats[:, prefix - 1 :].float().cpu().numpy())
    return np.concatenate(found)


def _chosen(
    router: Router, windows: NDArray[np.integer], mix: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `mix` likeliest paths of each window, int64[N, mix], and their shares, f64[N, mix]."""
    if not 1 <= mix <= router.count:
        raise DataError(f"--mix {mix}: this family has {router.count} paths")
    scores = router.scores(windows)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :mix]
    best = np.take_along_axis(scores, top, axis=1) / (UNIT * TEMPERATURE)
    weights = np.exp(best - best[:, :1])
    return top, weights / weights.sum(axis=1, keepdims=True)


def _mixture(folder: FamilyFolder, choice: Choice, device: str) -> Mixture | None:
    """The other models of a choice, on the device; None where it is one path. Raises FolderError, ModelError."""
    models = [_model(folder, path) for path in choice.paths[1:]]
    others = [model_in(model).to(device).eval() for model in models]
    return Mixture(others, choice.shares, choice.seen) if others else None


def _model(folder: FamilyFolder, path: int) -> Path:
    """Where the model of a path lies. Raises FolderError where the family is not finished."""
    return model_folder(folder.of_path(path).path)
