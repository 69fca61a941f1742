"""`duckweed chat`: a conversation with a model in the terminal."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import fail, plain_errors
from duckweed.cli.common.families import Mix, only_of_families

if TYPE_CHECKING:
    from duckweed.learn.model.talk import Talk

console = PlainConsole(stderr=True)
ASKS = "> "


def register(app: typer.Typer) -> None:
    app.command()(chat)


@plain_errors
def chat(
    run: Annotated[
        Path, typer.Argument(help="A finished run, or a folder in Hugging Face's format.")
    ],
    system: Annotated[
        str, typer.Option(help="What the model is told before everything else.")
    ] = "",
    tokens: Annotated[int, typer.Option(help="Of an answer, at most.")] = 256,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token each time.")] = 0.7,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest tokens of this probability together.")
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Another seed, other answers.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    mix: Mix = 1,
) -> None:
    """Talk with a model. It answers what you say line by line, and remembers the conversation; Ctrl-D ends it.
    From a pipe each line is a turn, and only the answers are printed."""
    if tokens < 1 or temperature < 0:
        fail("--tokens must be at least 1 and --temperature at least 0")
    if not 0 < top_p <= 1:
        fail(f"--top-p {top_p:g}: must be greater than 0 and at most 1")
    from duckweed.family import folder as families
    from duckweed.run.checked import plain

    family = families.find(run)
    if not family:
        only_of_families(mix)
    talk = None if family else _talk(run, device, seed, system)

    def write(text: str) -> None:
        typer.echo(plain(text, keep="\n\t"), nl=False)
        sys.stdout.flush()

    for line in _lines():
        if talk is None:  # a family: what is said first chooses the path
            talk = _talk(run, device, seed, system, line, mix)
        try:
            forgotten = talk.ask(line, tokens, temperature, write, top_p)
        except ValueError as error:  # what was said does not fit; the conversation goes on
            if not sys.stdin.isatty():
                raise
            console.print(f"error: {error}", style="red")
            continue
        typer.echo()
        if forgotten:
            console.print(f"(the first {forgotten} messages did not fit any more)", style="dim")


def _talk(
    run: Path, device: str, seed: int, system: str, first: str | None = None, mix: int = 1
) -> "Talk":
    """A conversation with a model; first: what is said first to a family of paths, of which `mix` are mixed."""
    from duckweed.family import folder as families

    said: list[str] = []
    with console.status("loading the model"):
        from duckweed import session

        family = families.find(run)
        if family and first is not None:
            from duckweed.family import routing

            talk = routing.talk(family, first, device, seed, system, said.append, mix)
        else:
            talk = session.talk(run, device, seed, system)
    for text in said:
        console.print(f"{text}; the conversation stays there", style="dim")
    if talk.plain:
        console.print(
            "This model's tokenizer has no chat template, so the plain one is used (User: ... Assistant: ...).",
            style="yellow",
        )
    return talk


def _lines() -> Iterator[str]:
    """What the user says, without empty lines, until the end of the input."""
    alone = sys.stdin.isatty()
    while True:
        try:
            line = input(ASKS) if alone else sys.stdin.readline()
        except EOFError:
            typer.echo()
            return
        if not alone and not line:
            return
        if line.strip():
            yield line.rstrip("\n")
