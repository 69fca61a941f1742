"""What trains the contributions of a run again: its model, with the text of the run."""

import platform
from pathlib import Path

import msgspec
import torch

from duckweed.audit.claims import Claims
from duckweed.audit.findings import NotHere
from duckweed.learn import registry
from duckweed.learn.data.corpus import DataError
from duckweed.learn.device import precision_for
from duckweed.learn.learner import Learner
from duckweed.learn.model import model as models
from duckweed.learn.model.architecture import ModelError
from duckweed.round import founding
from duckweed.round.founding import Ground, Report
from duckweed.run.folder import FolderError

STDLIB = "stdlib"


class Machine(msgspec.Struct, frozen=True):
    """What decides the last bits of training, and so how near two honest machines come. A site, in which several
    processes train as one peer, is another kind of machine than one process: it adds up in another order."""

    device: str
    """As PyTorch names it."""
    precision: str
    """Of matrix products: fp32 or bf16."""
    threads: int
    """CPU threads."""
    processor: str
    """Its architecture, and the instructions that PyTorch uses on it."""
    torch: str
    """Version of PyTorch."""
    processes: int = 1
    """That train together."""

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        processes = "one process" if self.processes == 1 else f"{self.processes} processes"
        return f"{self.device}, {self.processor}, {processes}, {threads}, {self.precision}, PyTorch {self.torch}"


def machine(claims: Claims, device: str) -> Machine:
    """This one. device: that contributions are trained on."""
    bf16 = precision_for(device, claims.spec.inner.precision) == torch.bfloat16
    return Machine(
        device=device,
        precision="bf16" if bf16 else "fp32",
        threads=torch.get_num_threads(),
        processor=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        torch=str(torch.__version__),
    )


def learner_of(claims: Claims, data: tuple[str, ...] | None, device: str, say: Report) -> Learner:
    """The learner of an audited run. data: where its text is; None: where it was when the run began here.

    Raises NotHere if the text or the model is not that of the run, or not here.
    """
    spec, genesis = claims.spec, claims.genesis
    try:
        ground = _ground(claims, data, say)
        if ground.dataset.manifest.tokens_hash != genesis.tokens:
            raise NotHere(
                "the text here does not give the tokens of the run (blake3 "
                f"{ground.dataset.manifest.tokens_hash[:16]} and not {genesis.tokens[:16]}); name the "
                "run's text with --data"
            )
        skeleton = models.skeleton(founding.configuration(spec, ground))
        if founding.layout_here(spec, ground, skeleton).digest() != genesis.layout:
            raise NotHere(
                "this machine builds another model from the specification than the run has; install the "
                "version of transformers that the run was begun with"
            )
        ground.start = genesis.start
        return founding.learner(spec, ground, device)
    except (DataError, ModelError, FolderError) as error:
        raise NotHere(str(error)) from error


def _ground(claims: Claims, data: tuple[str, ...] | None, say: Report) -> Ground:
    """Raises DataError, FolderError, NotHere."""
    spec = claims.spec
    if data is None and "dataset" in claims.folder.local():
        return founding.reopen(claims.folder, spec)
    # A specification from elsewhere must not make this machine read files that its user did not name.
    if data is None and spec.data.path != STDLIB:
        raise NotHere(
            f"the text of the run ({', '.join(spec.data.paths)}) is not known to be here; say where it "
            "is with --data"
        )
    if data:
        spec = msgspec.structs.replace(spec, data=msgspec.structs.replace(spec.data, path=data))
    say("reading the data")
    cache, router = founding.cache_folder(), founding.router_of(claims.folder, spec)
    return Ground(Path.cwd(), registry.prepare(spec, Path.cwd(), cache, router=router))
