"""The inner optimizers by the names that `inner.optimizer` takes. One more: a module and a line here."""

from torch import nn

from duckweed.learn.optim.adamw import AdamW
from duckweed.learn.optim.lion import Lion
from duckweed.learn.optim.muon import Muon
from duckweed.learn.optim.normuon import NorMuon
from duckweed.learn.optim.optimizer import InnerOptimizer
from duckweed.run import sections
from duckweed.run.sections import Inner

OPTIMIZERS: dict[str, type[InnerOptimizer]] = {
    "adamw": AdamW,
    "muon": Muon,
    "normuon": NorMuon,
    "lion": Lion,
}


def register_optimizer(name: str, kind: type[InnerOptimizer]) -> None:
    """Let `inner.optimizer = name` mean an optimizer of one's own, in this process. To be called in
    every process of a run before its specification is read, the coordinator's too. Raises ValueError
    if the name is taken."""
    if OPTIMIZERS.get(name, kind) is not kind:
        raise ValueError(f"there is an inner optimizer {name!r} already; choose another name")
    OPTIMIZERS[name] = kind
    if name not in sections.OPTIMIZERS:
        sections.OPTIMIZERS.append(name)


def optimizer_of(inner: Inner) -> type[InnerOptimizer]:
    """The inner optimizer that a specification names."""
    return OPTIMIZERS[inner.optimizer]


def make_optimizer(model: nn.Module, inner: Inner) -> InnerOptimizer:
    """The inner optimizer of a specification over a model."""
    return optimizer_of(inner)(model, inner)
