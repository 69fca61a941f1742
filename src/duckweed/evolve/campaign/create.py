"""A campaign is created (folder, texts, genesis) or opened again."""

import shutil
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import msgspec
from blake3 import blake3

from duckweed.evolve.campaign.journal import Journal, JournalError
from duckweed.evolve.decide.requests import Settings
from duckweed.evolve.entries import CampaignEntry
from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.propose.allocation import Allocator
from duckweed.evolve.propose.language_model import LanguageModel
from duckweed.evolve.propose.proposers import (
    Affordable,
    BayesianSearch,
    EvolutionarySearch,
    KnownChanges,
    Proposer,
    RandomSearch,
)
from duckweed.evolve.space.commitments import CampaignSecret
from duckweed.evolve.space.plain_recipe import generation_zero, plain_recipe
from duckweed.evolve.space.registry import Registry
from duckweed.evolve.space.signed_registry import release, sign
from duckweed.evolve.space.switches import registry
from duckweed.evolve.trial_spec import Recipe, TrialSpec
from duckweed.evolve.trials import text_split
from duckweed.evolve.trials.cost import Bounds
from duckweed.evolve.trials.trial import TrialError, TrialPlanner
from duckweed.learn.data import preparation
from duckweed.learn.model.presets import PRESETS
from duckweed.net.identity import load_or_create
from duckweed.round.founding import cache_folder
from duckweed.run import toml
from duckweed.run.folder import FolderError, write_atomically
from duckweed.run.spec import RunSpec

FORMAT = 3  # 3: the final comparison runs generation 0 at larger budgets
SAME_TRIALS = (2, FORMAT)  # formats whose trials mean the same, however decisions differ
HELD_OUT = 0.08  # share of the documents that trials never see

BOUNDS = Bounds()  # of a recipe, against generation 0
SHORTEST = 0.25  # share of the reference budget of the shortest trials of screening


@dataclass(frozen=True)
class OpenCampaign:
    """A campaign that can be run."""

    folder: CampaignFolder
    journal: Journal
    settings: Settings
    registry: Registry
    plain: Recipe  # the registry's keys before tuning


def plain_specification(
    model: str, data: list[str] | None, tokenizer: str, peers: int = 1
) -> RunSpec:
    """The specification before tuning; peers: of a trial."""
    spec = generation_zero(model, peers=peers)
    path = "stdlib" if not data else data[0] if len(data) == 1 else tuple(data)
    text = msgspec.structs.replace(spec.data, path=path, tokenizer=tokenizer, held_out=HELD_OUT)
    return msgspec.structs.replace(spec, data=text)


def create(path: Path, spec: RunSpec, base: Path, settings: Settings) -> OpenCampaign:
    """A new campaign in an empty folder. Raises FolderError, DataError, ModelError, TrialError."""
    if path.exists() and any(path.iterdir()):
        raise FolderError(
            f"{path} is not empty. Go on with a campaign there: `duckweed evolve --resume --out "
            f"{path}`; or choose another folder with --out"
        )
    path.mkdir(parents=True, exist_ok=True)
    folder, switches = CampaignFolder(path), registry(spec.rounds.peers)
    try:
        dataset = preparation.prepare(spec.data, base, cache_folder())
        held = text_split.split_texts(dataset, folder.training, folder.held)
        spec = _with_own_model(spec, base, folder)
        plain = plain_recipe(spec, switches)
        _check_shortest(TrialPlanner(spec, path, dataset.manifest.vocabulary), plain, settings)
        write_atomically(folder.spec, toml.write(spec).encode())
        journal = Journal(path)
        made = release(switches, CampaignSecret.open(folder.secret).key)
        write_atomically(folder.registry, sign(made, load_or_create(folder.key)))
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    genesis = CampaignEntry(
        format=FORMAT,
        key=journal.key,
        made_with=made_with(),
        plain=toml.write(spec),
        settings=msgspec.to_builtins(settings),
        registry=switches.identity,
        plants=list(made.commitments),
        data=dataset.manifest.hash,
        tokens=dataset.manifest.tokens_hash,
        held=msgspec.to_builtins(held),
    )
    journal.note(genesis)
    return OpenCampaign(folder, journal, settings, switches, plain)


def _check_shortest(planner: TrialPlanner, plain: Recipe, settings: Settings) -> None:
    """Raises TrialError where the shortest trials are too short for the plain recipe."""
    for share in (SHORTEST, min(settings.vault_shares)):
        try:
            planner.plan(TrialSpec(plain, 0, share * settings.budget))
        except TrialError as error:
            raise TrialError(f"the shortest trials have {share:g} of --trial: {error}") from error


def made_with() -> dict[str, str | int]:
    """What a trial's bits depend on besides the ledger: program, torch, instructions, threads."""
    import torch

    return {
        "duckweed": version("duckweed"),
        "code": code_hash(),
        "torch": str(torch.__version__),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": 1,
    }


def code_hash() -> str:
    """blake3 of this program's sources that a trial runs."""
    root = Path(__file__).parents[2]
    found = blake3()
    for room in ("evolve", "learn", "merge", "round", "run", "wire"):
        for path in sorted((root / room).rglob("*.py")):
            found.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest(16)


def check_format(folder: CampaignFolder, genesis: CampaignEntry, known: tuple[int, ...]) -> None:
    """Raises JournalError where the ledger has a format in which the same entries meant another thing."""
    if genesis.format not in known:
        raise JournalError(
            f"{folder.ledger}: format {genesis.format}, this version reads "
            f"{' and '.join(map(str, known))} here; use the version that made it, or start a new campaign"
        )


def reopen(folder: CampaignFolder) -> OpenCampaign:
    """An existing campaign at its beginning, to be replayed. Raises JournalError, LedgerError."""
    folder.stop.unlink(missing_ok=True)
    spec = folder.plain()
    switches = registry(spec.rounds.peers)
    journal = Journal(folder.path)
    if not journal.replaying:
        raise JournalError(f"{journal.ledger.path}: an empty ledger; start a new campaign")
    genesis, _ = journal.take(CampaignEntry, lambda: CampaignEntry(journal.key))
    check_format(folder, genesis, (FORMAT,))
    if genesis.registry != switches.identity:
        raise JournalError(
            f"{journal.ledger.path}: made with another registry of switches ({genesis.registry[:12]}) "
            f"than this version's ({switches.identity[:12]}); go on with the version that made it, or "
            "start a new campaign"
        )
    if genesis.plain != folder.spec.read_text("utf-8"):
        raise JournalError(f"{folder.spec}: differs from the specification in the ledger")
    settings = msgspec.convert(genesis.settings, Settings, strict=False)
    return OpenCampaign(folder, journal, settings, switches, plain_recipe(spec, switches))


def _with_own_model(spec: RunSpec, base: Path, folder: CampaignFolder) -> RunSpec:
    """A model described by a file is copied into the campaign, so that it stays what it was."""
    if spec.model.source in PRESETS:
        return spec
    path = base / Path(spec.model.source).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        return spec
    shutil.copyfile(path, folder.model)
    model = msgspec.structs.replace(spec.model, source=folder.model.name)
    return msgspec.structs.replace(spec, model=model)


def allocator(campaign: OpenCampaign, model: LanguageModel | None) -> Allocator:
    """With all proposers that are available: the Bayesian one needs the extra `evolve`."""
    switches = campaign.registry
    proposers: list[Proposer] = [
        KnownChanges(switches), RandomSearch(switches), EvolutionarySearch(switches)
    ]  # fmt: skip
    if find_spec("optuna"):
        proposers.append(BayesianSearch(switches))
    if model is not None:
        proposers.append(model)
    secret = CampaignSecret.open(campaign.folder.secret)
    planner = TrialPlanner.of(campaign.folder)
    return Allocator(switches, proposers, secret, affordable(planner, campaign.settings))


def affordable(planner: TrialPlanner, settings: Settings) -> Affordable:
    """Counts a recipe's parameters and steps at the smallest budget and at the larger size before
    anything is run."""
    first, zero = planner.plan(TrialSpec({}, 0, settings.budget))

    def reason(recipe: Recipe) -> str | None:
        try:
            for share, size in ((SHORTEST, 1), (1.0, settings.scale)):
                trial = TrialSpec(recipe, 0, share * settings.budget, size)
                spec, cost = planner.plan(trial)
                if size == 1 and (
                    why := BOUNDS.excess(zero, cost, first.tokens_per_step, spec.tokens_per_step)
                ):
                    return why
        except ValueError as error:
            return str(error)
        return None

    return reason
