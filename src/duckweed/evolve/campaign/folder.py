"""The folder of a campaign: where its files are."""

from pathlib import Path

from duckweed.evolve.trials.text_split import manifest_vocabulary
from duckweed.run import spec as specs
from duckweed.run.folder import FolderError
from duckweed.run.spec import RunSpec


class Campaign:
    """Paths inside `evolve/NAME/`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "plain.toml"
        self.ledger = path / "ledger.db"
        self.secret = path / "sealed.key"
        self.registry = path / "registry.json"
        self.key = path / "campaign.key"
        self.training = path / "training"
        self.held = path / "held"
        self.work = path / "work"
        self.stop = path / "stop"
        self.evolved = path / "evolved.toml"
        self.report = path / "report.html"
        self.log = path / "log.txt"

    def plain(self) -> RunSpec:
        """The specification that the campaign started from."""
        return specs.load(self.spec)

    def vocabulary(self) -> int:
        return manifest_vocabulary(self.training)


def find(path: Path) -> Campaign:
    """An existing campaign. Raises FolderError."""
    for place in (path, Path("evolve") / path):
        if (place / "ledger.db").is_file() and (place / "plain.toml").is_file():
            return Campaign(place)
    raise FolderError(f"{path}: no campaign there (a folder with plain.toml and ledger.db)")
