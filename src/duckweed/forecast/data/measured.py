"""Returns to research as `duckweed evolve` measured them, for the race in place of the prior."""

from pathlib import Path

import msgspec

from duckweed.forecast.data.table import read_text
from duckweed.forecast.scenario import WORLD, ScenarioError, Spread, decode

FILE = "returns.json"


class MeasuredReturns(msgspec.Struct, frozen=True):
    """The file. mean: geometric mean of r; low, high: its interval at `level`; accepted: changes
    behind it; mostly_prior: too few for more than a restated prior; source: the run."""

    mean: float
    low: float
    high: float
    level: float = 0.95
    accepted: int = 0
    mostly_prior: bool = False
    source: str = ""

    @property
    def spread(self) -> Spread:
        """As a parameter of the race: lognormal around the geometric mean."""
        return Spread(self.mean, self.low, self.high, "lognormal", self.level)

    @property
    def caution(self) -> str | None:
        """What a reader must know before using it, if anything."""
        if not self.mostly_prior:
            return None
        return f"the measured returns rest on {self.accepted} accepted change(s): mostly the prior"


def read_returns(path: Path) -> MeasuredReturns:
    """A file of JSON or TOML with the fields above (others are ignored), or the folder of an
    evolve run that holds `returns.json`. Raises ScenarioError."""
    if path.is_dir():
        if not (path / FILE).is_file():
            raise ScenarioError(
                f"{path} holds no {FILE}: an evolve run writes it after its first vault comparison"
            )
        path = path / FILE
    if path.suffix not in (".json", ".toml"):
        raise ScenarioError(
            f"{path}: expected a .json or .toml file, or the folder of an evolve run"
        )
    found: MeasuredReturns = decode(read_text(path), path, MeasuredReturns)
    found.spread.check(f"returns in {path}")
    least, most = WORLD["returns"].least, WORLD["returns"].most
    for number in (found.low, found.high):
        if not least <= number <= most:
            raise ScenarioError(f"returns in {path}: {number} is outside {least:g} to {most:g}")
    if found.accepted < 0:
        raise ScenarioError(
            f"returns in {path}: accepted must not be negative, got {found.accepted}"
        )
    return found
