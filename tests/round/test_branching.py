"""The beginning of a path: the same first entry whoever begins it, of those who may."""

import contextlib

import msgspec
import pytest
from blake3 import blake3
from fixtures import tiny

from duckweed import session
from duckweed.family import begin as families
from duckweed.learn.fit import Machine
from duckweed.ledger.entries import GenesisEntry, encode
from duckweed.ledger.ledger import Ledger, LedgerError, Row, entry_hash
from duckweed.ledger.succession import Voter
from duckweed.net.identity import Identity, verify
from duckweed.round import branching, founding
from duckweed.round.signed import ForeignRun, genesis_hash
from duckweed.run import folder as folders
from duckweed.run import spec as specs
from duckweed.run.folder import Destination, FolderError

ANNA, BEN, STRANGER = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
CHANGES = {
    "paths.count": 2, "paths.prefix": 8, "rounds.count": 3, "rounds.peers": 2,
    "members.successors": [f"anna:{ANNA.id}", f"ben:{BEN.id}"],
}  # fmt: skip


def quiet(*words):
    pass


def first(run):
    with contextlib.closing(Ledger(run.ledger)) as ledger:
        return ledger.rows(0, 1, 0)[0], ledger.hash_at(0)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    base = tmp_path_factory.mktemp("family")
    spec = tiny.specification(base, CHANGES)
    place = Destination(base, base / "runs", "f")
    return families.found(spec, place, Machine("cpu"), (), quiet, quiet)


@pytest.fixture(scope="module")
def done(family):
    with pytest.MonkeyPatch.context() as patch:
        held = property(lambda voter: voter.ledger.number)  # as if the successors had copied all
        patch.setattr(Voter, "committed", held)
        for _ in session.simulate(family.common):
            pass
    return family


def begun_by(done, place, identity, path=1):
    folder = folders.create(place, f"path-{path}")
    branching.begin(branching.start_of_heir(done.common.folder), path, folder, identity)
    return folder


def test_organiser_and_successors_begin_one_and_the_same_run(done, tmp_path):
    families.branch(done, quiet)
    here = done.folder.of_path(1)
    others = [begun_by(done, tmp_path / name, who) for name, who in (("a", ANNA), ("b", BEN))]
    rows = {first(run)[0].signature: first(run) for run in (here, *others)}
    assert len(rows) == 3  # three have signed ...
    assert len({digest for _, digest in rows.values()}) == 1  # ... the same entry
    genesis = msgspec.json.decode(first(here)[0].body, type=GenesisEntry)
    assert genesis.coordinator == done.common.spec.branch.coordinators[1]
    for run in (here, *others):
        with contextlib.closing(Ledger(run.ledger)) as ledger:
            assert ledger.verify(verify) == 1
            assert ledger.leadership.leader == genesis.coordinator
        spec = specs.load(run.spec)
        assert genesis_hash(first(run)[0], spec, ANNA.id, verify) == first(here)[1]


def test_what_was_begun_is_left_as_it_is(done, tmp_path):
    folder = begun_by(done, tmp_path, ANNA)
    before = first(folder)
    branching.begin(branching.start_of_heir(done.common.folder), 1, folder, BEN)
    assert first(folder) == before


def test_nobody_else_can_begin_it(done, tmp_path):
    row, _ = first(begun_by(done, tmp_path / "anna", ANNA))
    digest = entry_hash("", 0, row.kind, 0, row.body)
    forged = Row(0, row.kind, 0, row.body, STRANGER.sign(digest.encode()).hex())
    copy = Ledger(tmp_path / "copy.db", STRANGER.sign)
    with contextlib.closing(copy), pytest.raises(LedgerError, match="not signed by the leader"):
        copy.take(forged, verify)
    spec = specs.load(tmp_path / "anna" / "path-1" / "run.toml")
    with pytest.raises(ForeignRun, match="not signed by its coordinator"):
        genesis_hash(forged, spec, ANNA.id, verify)


def test_the_first_entry_of_any_other_run_is_its_coordinators_alone(done, tmp_path):
    row, digest = first(done.common.folder)
    body = msgspec.json.decode(row.body, type=GenesisEntry)
    forged = Row(0, row.kind, 0, encode(body), ANNA.sign(digest.encode()).hex())
    copy = Ledger(tmp_path / "copy.db", ANNA.sign)
    with contextlib.closing(copy), pytest.raises(LedgerError, match="not signed by the leader"):
        copy.take(forged, verify)
    with pytest.raises(ForeignRun, match="not signed by its coordinator"):
        genesis_hash(forged, done.common.spec, ANNA.id, verify)


def test_the_common_start_has_the_router_for_those_who_may_have_to_begin_the_paths(family):
    router = founding.router_of(family.common.folder, family.common.spec)
    assert blake3(router.read_bytes()).hexdigest() == family.common.spec.branch.router
    assert router.read_bytes() == family.folder.router.read_bytes()


def test_a_successor_that_cannot_begin_a_path_is_told_why(done, tmp_path):
    whole = done.common.folder.path

    def copy(name, *left_out):
        place = tmp_path / name
        place.mkdir()
        for part in whole.iterdir():
            if part.name not in left_out:
                (place / part.name).symlink_to(part)
        return folders.RunFolder(place)

    late = copy("late", "states")
    with pytest.raises(FolderError, match="has no state of the common start"):
        branching.start_of_heir(late)
    early = copy("early", "ledger.db", "ledger.db-wal", "ledger.db-shm")
    with contextlib.closing(Ledger(whole / "ledger.db")) as ledger:
        rows = ledger.rows(0, 1 << 20, ledger.number)
    with contextlib.closing(Ledger(early.ledger, ANNA.sign)) as ledger:
        for row in rows[:-1]:  # all but what the peers agreed on last
            ledger.take(row, verify)
    with pytest.raises(FolderError, match="have not agreed on the last state yet"):
        branching.start_of_heir(early)
    without = copy("without", "blobs")
    with pytest.raises(FolderError, match="router is gone from this machine's disk; copy it from"):
        branching.start_of_heir(without)
    old = copy("old", "run.toml")
    text = (whole / "run.toml").read_text()
    lines = [x for x in text.splitlines() if not x.startswith(("coordinators", "router"))]
    old.spec.write_text("\n".join(lines))
    with pytest.raises(FolderError, match="organiser's machine alone can begin the paths"):
        branching.start_of_heir(old)
