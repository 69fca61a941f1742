"""A systemd user service for a peer: starts with the session or the machine, needs no root."""

from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_config_path

from duckweed.run.folder import write_atomically
from duckweed.volunteer.peer_home import PeerHome

UNIT = """[Unit]
Description=duckweed: peer of run {run}

[Service]
# The invitation and the limits (controls.toml) lie in the peer's folder, not here.
ExecStart={command}
WorkingDirectory={folder}
Restart=on-failure
RestartSec=60
# SIGINT is Ctrl-C: the peer says good-bye.
KillSignal=SIGINT
SuccessExitStatus=130
TimeoutStopSec=30
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""


def unit(
    peer_home: PeerHome,
    program: Sequence[str],
    data: Sequence[str],
    device: str,
    config: str = "",
    tokenizer: str = "",
) -> str:
    """The text of the unit file. program: the words that start duckweed."""
    words = [*program, "join", "--home", str(peer_home.home.resolve()), "--device", device]
    named = [*(("--data", path) for path in data), ("--config", config), ("--tokenizer", tokenizer)]
    for option, path in named:
        if path:
            words += [option, str(Path(path).resolve()) if Path(path).exists() else path]
    return UNIT.format(
        run=peer_home.invitation.run[:12],
        command=" ".join(map(quoted, words)),
        folder=str(Path.cwd()).replace("%", "%%"),
    )


def quoted(word: str) -> str:
    """A word of an ExecStart line, as systemd.service(5) and systemd.syntax(7) read it."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if not word or set(word) & set(" \t'\"\\;") else word


def write(peer_home: PeerHome, text: str) -> Path:
    """Write the unit into the user's folder of units; returns its path."""
    name = f"duckweed-{peer_home.invitation.run[:12]}.service"
    path = user_config_path() / "systemd" / "user" / name
    write_atomically(path, text.encode())
    return path
