"""`duckweed push`: the model of a finished run as a folder for the Hugging Face hub, and onto it."""

import os
import re
import shutil
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import fail, plain_errors

if TYPE_CHECKING:
    from duckweed.run.folder import RunFolder

console = PlainConsole()
NAME = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"


def register(app: typer.Typer) -> None:
    app.command()(push)


@plain_errors
def push(
    run: Annotated[
        Path, typer.Argument(help="A finished run: its folder, or its name under runs/.")
    ],
    name: Annotated[str, typer.Argument(help="OWNER/MODEL on the hub.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the folder, and send nothing.")
    ] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Only you see it, if it is new on the hub.")
    ] = False,
) -> None:
    """Write a model card (data, recipe, tokens, loss, who trained, head of the ledger) beside the model, and send
    both to the Hugging Face hub. The folder is RUN/push; the ledger goes along, keys and secrets do not.
    """
    from duckweed.run import folder as folders

    if not re.fullmatch(NAME, name) or re.search(r"--|\.\.|[-.]$|\.git$", name):  # the hub's rules
        fail(f"{name!r} is not OWNER/MODEL, such as anna/small-model")
    place = write(folders.find(run), name)
    if dry_run:
        console.print(f"Wrote {place}; nothing was sent. It is as it would be at {name}.")
        return
    console.print(f"{place} is at {_send(place, name, private)}", soft_wrap=True)


def write(folder: "RunFolder", name: str) -> Path:
    """The folder with model, card, ledger and specification. Raises FolderError, LedgerError."""
    from duckweed.ledger.ledger import Ledger
    from duckweed.net.identity import verify
    from duckweed.pages.live.follow import Follower
    from duckweed.pages.model_card import model_card
    from duckweed.run.folder import FolderError

    if not (folder.model / "config.json").is_file():
        raise FolderError(
            f"{folder.path} has no model yet: the run is not finished, or was ended with --no-model"
        )
    follower = Follower(folder)
    follower.look()
    place, part = folder.path / "push", folder.path / "push.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder.model, part)
    with closing(Ledger(folder.ledger)) as ledger, (part / "ledger.jsonl").open("wb") as file:
        ledger.verify(verify)
        file.writelines(line + b"\n" for line in ledger.exported())
    shutil.copyfile(folder.spec, part / "run.toml")
    (part / "README.md").write_text(model_card(follower, name), "utf-8")
    shutil.rmtree(place, ignore_errors=True)
    part.rename(place)
    return place


def _send(place: Path, name: str, private: bool) -> str:
    """Onto the hub; returns its address there."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    if not get_token():
        fail(
            f"no token for the hub on this machine: make one at huggingface.co/settings/tokens (it must be "
            f"allowed to write), then: hf auth login; or set HF_TOKEN. What would be sent is in {place}"
        )
    api = HfApi()
    try:
        with console.status("sending"):
            api.create_repo(name, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=name, folder_path=place, commit_message="Trained with duckweed"
            )
    except HfHubHTTPError as error:
        fail(f"the hub refused it: {str(error).splitlines()[0]}. What was to be sent is in {place}")
    except (
        Exception
    ) as error:  # each version of the hub's library has errors of its own for a network
        if os.environ.get("DUCKWEED_TRACE"):
            raise
        fail(
            f"{api.endpoint} cannot be reached ({str(error).splitlines()[0] or type(error).__name__}); try again "
            f"when there is a network. What was to be sent is in {place}"
        )
    return f"{api.endpoint}/{name}"
