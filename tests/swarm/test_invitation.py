"""Invitations survive copying by people and refuse everything else."""

import msgspec
import pytest

from duckweed.swarm.protocol.invitation import Invitation, InvitationError, read

INVITATION = Invitation("ab" * 32, "cd" * 32, ("192.0.2.1:4433", "[2001:db8::1]:4433"), "s3cret")


def test_an_invitation_is_one_line_that_reads_back() -> None:
    text = str(INVITATION)
    assert "\n" not in text
    assert " " not in text
    assert read(text) == INVITATION


def test_line_breaks_of_a_mail_program_do_no_harm() -> None:
    text = str(INVITATION)
    assert read(f"  {text[:50]}\n{text[50:90]}\r\n {text[90:]}\n") == INVITATION


@pytest.mark.parametrize("cut", [15, 40, 100, -1])
def test_a_cut_invitation_is_refused(cut: int) -> None:
    with pytest.raises(InvitationError, match="damaged"):
        read(str(INVITATION)[:cut])


@pytest.mark.parametrize("text", ["", "hello", "duckweed9:AAAA", "duckweed1:", "duckweed1:ü$$"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvitationError):
        read(text)


@pytest.mark.parametrize("field", ["run", "coordinator"])
@pytest.mark.parametrize(
    "name", ["../../x", "/etc", "..", ".ssh", "", "ab" * 31, "AB" * 32, "ab" * 32 + "\n"]
)
def test_names_that_are_no_hashes_are_refused_since_folders_are_called_by_them(field, name) -> None:
    with pytest.raises(InvitationError, match="none that duckweed makes"):
        read(str(msgspec.structs.replace(INVITATION, **{field: name})))
