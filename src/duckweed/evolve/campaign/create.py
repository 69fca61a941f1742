"""The beginning of a campaign, or the way back into one: folder, texts, genesis."""

import shutil
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from duckweed.evolve.campaign.folder import Campaign
from duckweed.evolve.campaign.journal import Journal, JournalError
from duckweed.evolve.decide.requests import Settings
from duckweed.evolve.decide.trial_spec import Cell, Recipe
from duckweed.evolve.entries import CampaignEntry
from duckweed.evolve.propose.allocation import Council
from duckweed.evolve.propose.language_model import LanguageModel
from duckweed.evolve.propose.proposers import Bayes, Chance, Evolution, KnownChanges, Proposer
from duckweed.evolve.space.commitments import Sealed
from duckweed.evolve.space.plain_recipe import generation_zero
from duckweed.evolve.space.registry import Registry
from duckweed.evolve.space.signed_registry import release, sign
from duckweed.evolve.trials import text_split
from duckweed.evolve.trials.cost import Bounds
from duckweed.evolve.trials.trial import TrialError, plan
from duckweed.learn.data import dataset as datasets
from duckweed.learn.model.presets import PRESETS
from duckweed.net.identity import load_or_create
from duckweed.round.founding import cache_folder
from duckweed.run import toml
from duckweed.run.folder import FolderError, write_atomically
from duckweed.run.spec import RunSpec

FORMAT = 3  # 3: the vault runs generation 0 at larger budgets
SAME_TRIALS = (2, FORMAT)  # formats whose trials mean the same, whatever is decided on them
HELD_OUT = 0.08  # share of the documents that trials never see

BOUNDS = Bounds()  # of a recipe, against generation 0


def plain_specification(
    model: str, data: list[str] | None, tokenizer: str, peers: int = 1
) -> RunSpec:
    """The specification before tuning; peers: of a trial."""
    spec = generation_zero(model, peers=peers)
    path: Any = "stdlib" if not data else data[0] if len(data) == 1 else tuple(data)
    text = msgspec.structs.replace(spec.data, path=path, tokenizer=tokenizer, held_out=HELD_OUT)
    return msgspec.structs.replace(spec, data=text)


def plain_recipe(spec: RunSpec, registry: Registry) -> Recipe:
    """The registry's keys as the plain specification has them."""
    raw = msgspec.to_builtins(spec)
    raw["inner"]["beta1"], raw["inner"]["beta2"] = spec.inner.betas
    found: Recipe = {}
    for switch in registry.switches:
        place: Any = raw
        for name in switch.key.split("."):
            place = place.get(name) if isinstance(place, dict) else None
        if place is not None:
            found[switch.key] = place
    return found


def create(
    path: Path, spec: RunSpec, base: Path, settings: Settings, registry: Registry
) -> tuple[Campaign, Journal]:
    """A new campaign in an empty folder. Raises FolderError, DataError, ModelError, TrialError."""
    if path.exists() and any(path.iterdir()):
        raise FolderError(
            f"{path} is not empty. Go on with a campaign there: `duckweed evolve --resume --out "
            f"{path}`; or choose another folder with --out"
        )
    path.mkdir(parents=True, exist_ok=True)
    folder = Campaign(path)
    try:
        dataset = datasets.prepare(spec.data, base, cache_folder())
        held = text_split.deal(dataset, folder.training, folder.held)
        spec = _with_own_model(spec, base, folder)
        vocabulary = dataset.manifest.vocabulary
        plain = plain_recipe(spec, registry)
        for share in (0.25, min(settings.vault_shares)):
            try:
                plan(spec, path, vocabulary, Cell(plain, 0, share * settings.budget))
            except TrialError as error:
                raise TrialError(
                    f"the shortest trials have {share:g} of --trial: {error}"
                ) from error
        write_atomically(folder.spec, toml.write(spec).encode())
        journal = Journal(path)
        made = release(registry, Sealed.open(folder.secret).secret)
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
        registry=registry.identity,
        plants=list(made.commitments),
        data=dataset.manifest.hash,
        tokens=dataset.manifest.tokens_hash,
        held=msgspec.to_builtins(held),
    )
    journal.take(CampaignEntry, lambda: genesis)
    return folder, journal


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
    for room in ("evolve", "learn", "merge", "run", "swarm", "wire"):
        for path in sorted((root / room).rglob("*.py")):
            found.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest(16)


def check_format(folder: Campaign, genesis: CampaignEntry, known: tuple[int, ...]) -> None:
    """Ledgers of another format meant something else by the same words. Raises JournalError."""
    if genesis.format not in known:
        raise JournalError(
            f"{folder.ledger}: format {genesis.format}, this version reads "
            f"{' and '.join(map(str, known))} here; use the version that made it, or start a new campaign"
        )


def reopen(folder: Campaign, registry: Registry) -> tuple[Journal, Settings]:
    """An existing campaign at its beginning, to be replayed. Raises JournalError, LedgerError."""
    folder.stop.unlink(missing_ok=True)
    journal = Journal(folder.path)
    if not journal.replaying:
        raise JournalError(f"{journal.ledger.path}: an empty ledger; start a new campaign")
    genesis, _ = journal.take(CampaignEntry, lambda: CampaignEntry(journal.key))
    check_format(folder, genesis, (FORMAT,))
    if genesis.registry != registry.identity:
        raise JournalError(
            f"{journal.ledger.path}: made with another registry of switches ({genesis.registry[:12]}) "
            f"than this version's ({registry.identity[:12]}); go on with the version that made it, or "
            "start a new campaign"
        )
    if genesis.plain != folder.spec.read_text("utf-8"):
        raise JournalError(f"{folder.spec}: differs from the specification in the ledger")
    return journal, msgspec.convert(genesis.settings, Settings, strict=False)


def _with_own_model(spec: RunSpec, base: Path, folder: Campaign) -> RunSpec:
    """A model described by a file is copied into the campaign, so that it stays what it was."""
    if spec.model.source in PRESETS:
        return spec
    path = base / Path(spec.model.source).expanduser()
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        return spec
    shutil.copyfile(path, folder.path / "model.json")
    model = msgspec.structs.replace(spec.model, source="model.json")
    return msgspec.structs.replace(spec, model=model)


def council(
    folder: Campaign, settings: Settings, registry: Registry, model: LanguageModel | None
) -> Council:
    """All proposers that are to be had: the Bayesian one needs the extra `evolve`."""
    proposers: list[Proposer] = [KnownChanges(registry), Chance(registry), Evolution(registry)]
    if find_spec("optuna"):
        proposers.append(Bayes(registry))
    if model is not None:
        proposers.append(model)
    sealed = Sealed.open(folder.secret)
    return Council(registry, proposers, sealed, affordable(folder, folder.plain(), settings))


def affordable(folder: Campaign, spec: RunSpec, settings: Settings) -> Any:
    """A function that says why a recipe cannot be run in this campaign, or None: its parameters and
    steps are counted at the smallest budget and at the larger size before anything is run."""
    vocabulary = folder.vocabulary()
    first, zero = plan(spec, folder.path, vocabulary, Cell({}, 0, settings.budget))

    def reason(recipe: Recipe) -> str | None:
        try:
            for share, size in ((0.25, 1), (1.0, settings.scale)):
                cell = Cell(recipe, 0, share * settings.budget, size)
                planned, cost = plan(spec, folder.path, vocabulary, cell)
                if size == 1 and (why := BOUNDS.excess(zero, cost, _batch(first), _batch(planned))):
                    return why
        except ValueError as error:
            return str(error)
        return None

    return reason


def _batch(spec: RunSpec) -> int:
    """Tokens of a step."""
    return spec.inner.batch * spec.model.sequence
