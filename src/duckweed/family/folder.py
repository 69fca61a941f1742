"""The folder of a family: its specification and router, and a folder for each of its runs."""

from pathlib import Path

from duckweed.learn.data.reading import DataError
from duckweed.learn.data.router import Router
from duckweed.run import spec as specs
from duckweed.run.family import name_of as name_of
from duckweed.run.folder import FAMILY, FolderError, RunFolder
from duckweed.run.sections import Paths
from duckweed.run.spec import RunSpec
from duckweed.swarm.protocol.offers import COMMON as COMMON


class FamilyFolder:
    """Paths inside the folder of a family."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / FAMILY
        self.router = path / "router"
        self.figures = path / "family.json"
        self.report = path / "report.html"

    @property
    def common(self) -> RunFolder:
        """The run that all peers train first."""
        return RunFolder(self.path / COMMON)

    def of_path(self, path: int) -> RunFolder:
        """The run of a path; it is there once the common start is done."""
        return RunFolder(self.path / name_of(path))

    def key(self, path: int) -> Path:
        """The key of a path's first coordinator until the path begins, where it is named beforehand."""
        return self.path / "keys" / str(path)

    @property
    def runs(self) -> list[RunFolder]:
        """All runs, the common start first; those of the paths are there once that is done. Raises SpecError."""
        paths = self.read_spec().paths
        assert isinstance(paths, Paths)
        return [self.common, *map(self.of_path, range(paths.count))]

    def read_spec(self) -> RunSpec:
        """Raises SpecError."""
        return specs.load(self.spec)

    def read_router(self) -> Router:
        """Raises FolderError where it is missing or damaged, or is not the one that the paths were trained with."""
        wanted, first = "", self.of_path(0)
        again = "Copy it again from where the family was begun"
        if first.founded:
            wanted = getattr(specs.load(first.spec).branch, "router", "")
            again += f", or from {first.blobs / wanted}"
        try:
            router = Router.from_bytes(self.router.read_bytes())
        except (OSError, DataError) as error:
            raise FolderError(
                f"{self.router}: cannot be read as a router: {error}. {again}"
            ) from error
        if wanted and router.digest() != wanted:
            raise FolderError(
                f"{self.router}: does not hash right ({router.digest()[:16]}; the paths were trained with "
                f"{wanted[:16]}). {again}"
            )
        return router


def find(path: Path) -> FamilyFolder | None:
    """A family, given as its folder or by its name under runs/; None if there is none."""
    for place in (path, Path("runs") / path):
        if (place / FAMILY).is_file():
            return FamilyFolder(place)
    return None
