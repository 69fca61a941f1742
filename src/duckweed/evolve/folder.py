"""The folder of a campaign: where its files are."""

from pathlib import Path

import msgspec

from duckweed.learn.data.dataset import MANIFEST, Manifest
from duckweed.run import spec as specs
from duckweed.run.folder import FolderError
from duckweed.run.spec import RunSpec


class CampaignFolder:
    """Paths inside `evolve/NAME/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "plain.toml"  # the specification that the campaign started from
        self.model = path / "model.json"  # of a model that is no preset
        self.ledger = path / "ledger.db"
        self.secret = path / "sealed.key"  # decides what is planted; no worker is given it
        self.registry = path / "registry.json"
        self.key = path / "campaign.key"
        self.training = path / "training"  # text that trials see
        self.held = path / "held"  # text that the evaluator alone sees
        self.work = path / "work"  # exports under way
        self.stop = path / "stop"  # ends the campaign where it exists
        self.evolved = path / "evolved.toml"
        self.returns = path / "returns.json"
        self.report = path / "report.html"
        self.log = path / "log.txt"  # what workers say
        self.lock = path / "lock"

    def plain(self) -> RunSpec:
        """The specification that the campaign started from."""
        return specs.load(self.spec)

    def vocabulary(self) -> int:
        """Ids that the tokenizer of the training text has."""
        manifest = (self.training / MANIFEST).read_bytes()
        return msgspec.json.decode(manifest, type=Manifest).vocabulary


def find(path: Path) -> CampaignFolder:
    """An existing campaign. Raises FolderError."""
    for place in (path, Path("evolve") / path):
        if (place / "ledger.db").is_file() and (place / "plain.toml").is_file():
            return CampaignFolder(place)
    raise FolderError(f"{path}: no campaign there (a folder with plain.toml and ledger.db)")
