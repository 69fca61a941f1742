"""Keys and signatures."""

import errno
import sys

import pytest
from typer.testing import CliRunner

from duckweed.cli import app
from duckweed.net.identity import Identity, IdentityError, adopt, load_or_create, named, verify
from duckweed.run.sections import Members


def test_a_signature_holds_for_its_message_and_signer_only():
    one, two = Identity(b"1" * 32), Identity(b"2" * 32)
    signature = one.sign(b"message")
    assert len(one.id) == 64
    assert verify(one.id, b"message", signature)
    assert not verify(one.id, b"massage", signature)
    assert not verify(two.id, b"message", signature)
    changed = bytearray(signature)
    changed[5] ^= 1
    assert not verify(one.id, b"message", bytes(changed))


@pytest.mark.parametrize(
    "identity", ["", "zz", "é" * 32, "00" * 32, "ff" * 32, "a" * 63], ids=range(6)
)
@pytest.mark.parametrize("signature", [b"", b"\x00" * 63, b"\xff" * 64, b"x" * 1000], ids=len)
def test_nonsense_is_false_and_raises_nothing(identity, signature):
    assert not verify(identity, b"message", signature)
    assert not verify(Identity(b"1" * 32).id, b"message", signature)


def test_a_key_is_made_once_and_is_for_its_owner_only(tmp_path):
    path = tmp_path / "deep" / "key"
    one = load_or_create(path)
    assert load_or_create(path).id == one.id
    assert load_or_create(tmp_path / "other").id != one.id
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("contents", [b"short", b"x" * 33])
def test_a_file_that_is_no_key_is_refused_and_kept(tmp_path, contents):
    path = tmp_path / "key"
    path.write_bytes(contents)
    with pytest.raises(IdentityError, match="not a key"):
        load_or_create(path)
    assert path.read_bytes() == contents


def test_an_empty_file_as_a_full_disk_leaves_it_is_replaced_by_a_key(tmp_path):
    (tmp_path / "key").touch()
    made = load_or_create(tmp_path / "key")
    assert load_or_create(tmp_path / "key").id == made.id


def test_a_key_that_cannot_be_written_whole_is_not_written_at_all(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        load_or_create(tmp_path / "key")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the folders are others")
@pytest.mark.parametrize("value", [None, ""])
def test_named_keys_lie_where_they_always_did(tmp_path, monkeypatch, value):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_DATA_HOME", value)
    assert named("anna") == tmp_path / ".local" / "share" / "duckweed" / "identities" / "anna.key"


def test_the_user_may_keep_named_keys_elsewhere(home):
    assert named("anna") == home / "data" / "duckweed" / "identities" / "anna.key"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def test_a_named_identity_is_taken_to_a_place_and_stays_the_same(home):
    made = load_or_create(named("anna"))
    adopt(home / "peer" / "key", "anna")
    adopt(home / "peer" / "key", "anna")
    assert load_or_create(home / "peer" / "key").id == made.id
    assert (home / "peer" / "key").stat().st_mode & 0o777 == 0o600


def test_a_place_that_holds_another_key_and_a_name_that_is_none_are_refused(home):
    with pytest.raises(IdentityError, match="duckweed identity anna"):
        adopt(home / "key", "anna")
    load_or_create(named("anna"))
    before = load_or_create(home / "key").id
    with pytest.raises(IdentityError, match="another key"):
        adopt(home / "key", "anna")
    assert load_or_create(home / "key").id == before
    for name in ("", "../anna", "a" * 33, "-x"):
        with pytest.raises(IdentityError, match="not a name"):
            named(name)


def test_the_command_prints_what_a_specification_takes(home):
    line = CliRunner().invoke(app, ["identity", "anna"]).output.splitlines()[0]
    assert line == f"anna:{load_or_create(named('anna')).id}"
    assert Members(successors=(line, "ben:" + "ab" * 32)).heirs[0][1] == "anna"
