"""Who said what can be checked from the ledger alone, and nothing can be shown in another run."""

import msgspec
import pytest
from fixtures.coordinated import SPEC, play
from fixtures.pretended import COORDINATOR, PEERS, first_entry, genesis
from typer.testing import CliRunner

from duckweed.cli import app
from duckweed.ledger.entries import (
    AuditEntry,
    Contributed,
    GenesisEntry,
    PeerEntry,
    RoundEntry,
    Verdict,
    encode,
)
from duckweed.ledger.ledger import Ledger
from duckweed.merge.announcement import Announcement
from duckweed.net.identity import verify
from duckweed.round.signed import Checked, ForeignRun, check, genesis_hash, verdict_part
from duckweed.run import toml
from duckweed.run.spec import override


async def two_rounds(run):
    await run.start()
    await run.round(0)
    await run.round(1)


@pytest.fixture
def ledger(tmp_path):
    run = play(tmp_path, two_rounds)
    run.folder.spec.write_text(toml.write(SPEC))
    return run.it.history.ledger


def told(ledger, path, **changes):
    """A copy of a ledger whose leader says something else of what peer 1 handed in for round 1."""
    copy = Ledger(path, COORDINATOR.sign)
    for entry in ledger.entries(GenesisEntry, PeerEntry, RoundEntry):
        body = entry.body
        if isinstance(body, RoundEntry) and body.closed.round == 1:
            other = msgspec.structs.replace(body.contributions[1], **changes)
            body = msgspec.structs.replace(body, contributions=body.contributions | {1: other})
        copy.append(entry.round, body)
    return copy


def test_every_contribution_can_be_checked_from_the_ledger(ledger):
    assert check(ledger, verify) == Checked(signed=6, unsigned=0, wrong=[])


@pytest.mark.parametrize(
    "changes", [{"loss": 2.9}, {"tokens": 1}, {"sizes": "ab" * 16}, {"signature": "00" * 64}]
)
def test_a_leader_cannot_put_words_into_a_peers_mouth(ledger, tmp_path, changes):
    found = check(told(ledger, tmp_path / "other.db", **changes), verify)
    assert (found.signed, found.wrong) == (5, ["round 1, peer 1"])


def test_what_an_older_version_wrote_is_unsigned_and_not_wrong(ledger, tmp_path):
    old = told(ledger, tmp_path / "other.db", signature="", sizes="")
    assert (check(old, verify).unsigned, check(old, verify).wrong) == (1, [])


@pytest.mark.parametrize(
    "case", ["good", "other detail", "other signer", "other round", "no signature"]
)
def test_a_leader_cannot_put_a_verdict_into_an_auditors_mouth(ledger, case):
    genesis = ledger.hash_at(0)
    signature = PEERS[2].sign(verdict_part(genesis, 0, 1, False, "seen")).hex()
    round_, auditor, detail = 0, 2, "seen"
    match case:
        case "other detail":
            detail = "not seen"
        case "other signer":
            auditor = 0
        case "other round":  # replayed
            round_ = 1
        case "no signature":
            signature = ""
    verdict = Verdict(False, detail, signature)
    ledger.append(round_, AuditEntry(1, "disputed", 100, 2, {auditor: verdict}))
    wrong = [] if case == "good" else [f"audit of round {round_}, peer 1, by {auditor}"]
    assert check(ledger, verify).wrong == wrong


def test_show_tells_how_the_audits_went(ledger):
    ledger.append(0, AuditEntry(1, "passed", 100, 2))
    ledger.append(1, AuditEntry(2, "failed", 100, 2, out=[2]))
    shown = CliRunner().invoke(app, ["show", str(ledger.path.parent)])
    words = " ".join(shown.output.split())
    assert "peers audited 2 contributions: 1 passed, 1 failed; put out: peer 2 (round 1)" in words
    assert shown.exit_code == 1  # nobody's verdict says so
    assert "audit of round 1, peer 2: failed by 0 of 0 auditors" in words


def test_show_says_what_is_signed_and_fails_where_it_is_not(ledger, tmp_path):
    place = ledger.path
    shown = CliRunner().invoke(app, ["show", str(place.parent)])
    assert shown.exit_code == 0
    assert "6 contributions are signed by their peers" in shown.output
    told(ledger, tmp_path / "other.db", loss=0.1).close()
    ledger.close()
    place.with_name("ledger.db-wal").unlink(missing_ok=True)
    (tmp_path / "other.db").replace(place)
    shown = CliRunner().invoke(app, ["show", str(place.parent)])
    assert shown.exit_code == 1
    assert "not what its peer signed" in shown.output
    assert "round 1, peer 1" in shown.output


def test_a_signature_takes_little_room_in_the_ledger(ledger):
    (*_, entry) = ledger.entries(RoundEntry)
    bare = {
        peer: msgspec.structs.replace(said, signature="", sizes="")
        for peer, said in entry.body.contributions.items()
    }
    less = msgspec.structs.replace(entry.body, contributions=bare)
    assert len(encode(entry.body)) - len(encode(less)) == 3 * 186


def test_the_ledger_keeps_every_field_that_is_signed():
    """A new field of the announcement needs one in Contributed too, by the same name."""
    of_the_round = {"round", "peer", "block", "first", "steps"}
    by_hash = {"rms"}
    assert set(Announcement.__struct_fields__) - of_the_round - by_hash <= set(
        Contributed.__struct_fields__
    )


def test_a_peer_signs_for_no_run_but_the_one_it_was_invited_to():
    row = first_entry(SPEC, COORDINATOR)
    assert genesis_hash(row, SPEC, COORDINATOR.id, verify)
    for shown, spec, by, words in (
        (None, SPEC, COORDINATOR.id, "does not show"),
        (row, override(SPEC, {"seed": 1}), COORDINATOR.id, "another run"),
        (row, SPEC, PEERS[0].id, "another run"),
        (msgspec.structs.replace(row, signature="00" * 64), SPEC, COORDINATOR.id, "not signed"),
        (msgspec.structs.replace(row, body="{}"), SPEC, COORDINATOR.id, "not readable"),
    ):
        with pytest.raises(ForeignRun, match=words):
            genesis_hash(shown, spec, by, verify)
    assert genesis(SPEC, COORDINATOR.id).run == SPEC.identity
