"""What came of a family: every run measured and exported, and the figures of the whole."""

import msgspec

from duckweed import session
from duckweed.family import shards
from duckweed.family.begin import Family
from duckweed.family.folder import FamilyFolder, name_of
from duckweed.merge import trunk
from duckweed.pages.family_page import Figures, PathFigures, family_page
from duckweed.round import export, founding
from duckweed.round.run_log import run_log
from duckweed.run import family as rules
from duckweed.run.events import FinalLoss
from duckweed.run.folder import FolderError, write_atomically
from duckweed.session import Say, Session


def finish(family: Family, say: Say) -> Figures:
    """Once all runs are trained: measure and export each that is not, and write the figures and the page of the
    family. Raises what `session.finish` raises."""
    runs = [family.common, *map(family.of_path, range(rules.paths_of(family.spec).count))]
    for run in runs:
        if not run.folder.report.is_file():
            say(f"measuring and exporting {run.folder.path.name}")
            session.finish(run)
    paths = rules.paths_of(family.spec)
    if not paths.apart:
        shards.divide([run.folder.model for run in runs[1:]], paths.shares)
    figures = _measured(family, runs[1:], say)
    write_atomically(family.folder.figures, msgspec.json.encode(figures))
    write_atomically(family.folder.report, family_page(family.folder.path.name, figures).encode())
    return figures


def read(folder: FamilyFolder) -> Figures | None:
    """The figures of a family that is finished; None of one that is not. Raises FolderError."""
    if not folder.figures.is_file():
        return None
    try:
        return msgspec.json.decode(folder.figures.read_bytes(), type=Figures)
    except msgspec.DecodeError as error:
        raise FolderError(
            f"{folder.figures}: is damaged ({error}); remove it, and --resume writes it again"
        ) from error


def _measured(family: Family, runs: list[Session], say: Say) -> Figures:
    first = family.common
    common = export.latest_state(first.folder, first.spec).weights
    paths, spec = [], family.spec
    total = sum(_windows(run)[0] for run in runs)
    for path, run in enumerate(runs):
        say(f"measuring the common start on the text of path {path}")
        learner = founding.learner(run.spec, run.ground, run.device)
        nats, tokens = learner.evaluate(common, export.FINAL_TOKENS, batch=export.EVALUATION_BATCH)
        train, held_out = _windows(run)
        after = list(run.folder.records(FinalLoss))[-1].held_out
        paths.append(
            PathFigures(
                name=name_of(path),
                peers=run.spec.rounds.peers,
                rounds=session.closed_rounds(run.folder),
                sequences=train,
                share=train / total,
                tokens=_tokens(run),
                held_out=held_out,
                bytes_per_token=export.bytes_per_token(run.ground.dataset),
                before=nats / tokens,
                after=after,
            )
        )
    layout = founding.layout(first.folder)
    return Figures(
        parameters=layout.total,
        trunk=trunk.size(rules.paths_of(spec), layout),
        peers=spec.rounds.peers,
        common_rounds=session.closed_rounds(first.folder),
        common_tokens=_tokens(first),
        prefix=rules.paths_of(spec).prefix,
        sequence=spec.model.sequence,
        paths=paths,
    )


def _windows(run: Session) -> tuple[int, int]:
    """Training and held-out sequences of a path."""
    facts = run.ground.dataset.manifest
    return facts.train_tokens // facts.window, facts.held_out_tokens // facts.window


def _tokens(run: Session) -> int:
    """That a run has trained on."""
    return sum(one.tokens for one in run_log(run.folder).rounds)
