"""Records of what a peer has given: true ones hold, and each way to be false is told."""

import msgspec
import pytest
from fixtures.pretended import COORDINATOR, LAYOUT, SPEC, genesis, origin
from typer.testing import CliRunner

from duckweed.cli import app
from duckweed.ledger.entries import Closed, Contributed, PeerEntry, RoundEntry
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.merge.announcement import Announcement, sizes_hash
from duckweed.net.identity import Identity, load_or_create
from duckweed.round.signed import signed_part
from duckweed.run import toml
from duckweed.run.folder import RunFolder
from duckweed.volunteer import record
from duckweed.volunteer.record import RecordError

OTHER = Identity(b"o" * 32)
RMS = [1.0] * len(LAYOUT.names)


def contributed(key, round_, index, tokens):
    said = Announcement(round_, index, index, "ab" * 32, 10, tokens, SPEC.inner.steps, 3.0, RMS)
    signature = key.sign(signed_part(origin(SPEC), said)).hex()
    return Contributed(tokens, 3.0, "ab" * 32, 10, sizes=sizes_hash(RMS), signature=signature)


def close(ledger, round_, keys, accepted=(0, 1), tokens=1000):
    said = {n: contributed(key, round_, n, tokens) for n, key in enumerate(keys)}
    blobs = ["ab" * 32] * len(accepted)
    closed = Closed(round_, list(accepted), blobs, [1] * len(accepted), {}, None, [])
    ledger.append(round_, RoundEntry(closed, {0: 0, 1: 1}, said))


@pytest.fixture
def folder(tmp_path):
    """A peer's folder; its work counted in two of three rounds."""
    made = RunFolder(tmp_path / "joined")
    made.peer(0).mkdir(parents=True)
    made.spec.write_text(toml.write(SPEC))
    me = load_or_create(made.peer(0) / "key")
    ledger = Ledger(made.ledger, COORDINATOR.sign)
    ledger.append(0, genesis(SPEC, COORDINATOR.id))
    for index, key in enumerate((me, OTHER)):
        ledger.append(0, PeerEntry(index, key.id))
    close(ledger, 0, (me, OTHER))
    close(ledger, 1, (me, OTHER), accepted=(1,))
    close(ledger, 2, (me, OTHER))
    ledger.close()
    return made


def key_of(folder):
    return load_or_create(folder.peer(0) / "key")


def grown(folder, *keys, **changes):
    ledger = Ledger(folder.ledger, COORDINATOR.sign)
    close(ledger, 3, keys, **changes)
    ledger.close()


def forged(folder, **changes):
    """A record whose figures were changed, and which the peer has signed."""
    made = msgspec.structs.replace(record.make(folder.ledger, key_of(folder)), **changes)
    return msgspec.structs.replace(made, signature=key_of(folder).sign(made.signed_part()).hex())


def test_a_record_holds_also_when_the_ledger_has_grown(folder, tmp_path):
    made = record.make(folder.ledger, key_of(folder), "Anna")
    (tmp_path / "record.json").write_bytes(record.write(made))
    read = record.read(tmp_path / "record.json")
    assert read == made
    grown(folder, key_of(folder), OTHER)
    held = record.check(read, folder.ledger)
    assert (held.record.rounds, held.record.tokens, held.share) == (2, 2000, 0.4)
    assert "says of itself: Anna, gave 2 K tokens in 2 rounds" in held.sentence()


def test_each_way_to_be_false_is_told(folder, tmp_path):
    made = record.make(folder.ledger, key_of(folder))

    def refused(wrong, words, ledger=folder.ledger):
        with pytest.raises(RecordError, match=words):
            record.check(wrong, ledger)

    replace = msgspec.structs.replace
    refused(replace(made, tokens=9000), "false: the record is not signed by the key")
    refused(replace(made, key=OTHER.id), "false: the record is not signed by the key")
    refused(
        forged(folder, tokens=9000),
        "the record says 9,000 tokens in 2 .* the ledger says 2,000 in 2",
    )
    refused(forged(folder, rounds=3), "false: the record says")
    refused(forged(folder, head="0" * 64), "another ledger: entry 5")
    refused(forged(folder, entry=99), "not checked: .* ends with entry 5; get a newer copy")
    refused(forged(folder, run="0" * 64), "not checked: the record is of run 000000000000")
    refused(forged(folder, genesis="0" * 64), "begun another time")
    stranger = replace(made, key=(key := Identity(b"s" * 32)).id)
    refused(replace(stranger, signature=key.sign(stranger.signed_part()).hex()), "never admitted")
    (tmp_path / "record.json").write_text('{"format": "duckweed record 2"}')
    with pytest.raises(RecordError, match="not a record that this version can read"):
        record.read(tmp_path / "record.json")
    with pytest.raises(RecordError, match="never admitted"):
        record.make(folder.ledger, Identity(b"s" * 32))
    with pytest.raises(RecordError, match="one line"):
        record.make(folder.ledger, key_of(folder), "Anna\x1b[2J")


def test_work_that_a_coordinator_invents_for_a_peer_is_not_the_peers(folder):
    grown(folder, OTHER, OTHER)  # the work of peer 0 is signed by another key
    with pytest.raises(RecordError, match=r"the peer did not sign: round 3, peer 0"):
        record.check(record.make(folder.ledger, key_of(folder)), folder.ledger)


def test_a_ledger_that_was_changed_proves_nothing(folder):
    import sqlite3

    made = record.make(folder.ledger, key_of(folder))
    with sqlite3.connect(folder.ledger) as db:
        db.execute("UPDATE ledger SET body = replace(body, '1000', '9000') WHERE number = 3")
    with pytest.raises(LedgerError, match="entry 3"):
        record.check(made, folder.ledger)


def test_the_commands_write_and_check_it(folder, tmp_path):
    run = CliRunner()
    said = run.invoke(app, ["me", "--record", str(folder.path), "--note", "Anna"])
    assert said.exit_code == 0, said.output
    file = folder.path / "record.json"
    for place in (folder.path, folder.ledger):
        told = run.invoke(app, ["me", "--check", str(file), str(place)], env={"COLUMNS": "300"})
        assert told.exit_code == 0
        assert "true: the holder of key" in told.output
    file.write_text(file.read_text().replace("Anna", "Anne"))
    told = run.invoke(app, ["me", "--check", str(file), str(folder.path)])
    assert told.exit_code == 1
    assert run.invoke(app, ["me", "--check", str(file)]).exit_code == 1
    assert run.invoke(app, ["me", str(folder.path)]).exit_code == 1
