"""`duckweed show`, `duckweed generate`, `duckweed evaluate`: looking at runs and their models."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from duckweed.cli.errors import fail, plain_errors
from duckweed.run.units import show_size

if TYPE_CHECKING:
    from duckweed.ledger.entries import RoundEntry
    from duckweed.ledger.term import Charge

console = Console(highlight=False)
SEQUENCE = 512  # tokens at a time, of a model that no run has a sequence for
Model = Annotated[
    Path, typer.Argument(help="A run: its folder, or its name under runs/; or a folder of a model.")
]
Run = Annotated[Path, typer.Argument(help="A run: its folder, or its name under runs/.")]


def register(app: typer.Typer) -> None:
    app.command()(show)
    app.command()(generate)
    app.command()(evaluate)


@plain_errors
def show(run: Run) -> None:
    """The ledger of a run as a table: who contributed what, accepted or why not."""
    from duckweed.ledger.entries import (
        GenesisEntry,
        PeerEntry,
        RoundEntry,
        StateEntry,
        SuccessionEntry,
    )
    from duckweed.ledger.ledger import Ledger
    from duckweed.net.identity import verify
    from duckweed.run import folder as folders

    folder = folders.find(run)
    ledger = Ledger(folder.ledger)
    genesis = next((entry.body for entry in ledger.entries(GenesisEntry)), None)
    if genesis is None:
        fail(f"{folder.ledger}: has no genesis entry; this is not the ledger of a run")
    count = ledger.verify(verify)
    states = {entry.round: entry.body.hash for entry in ledger.entries(StateEntry)}
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("round", "peer", "block", "tokens", "loss", "bytes", "counted", "state after"):
        table.add_column(name, justify="right" if name in ("tokens", "loss", "bytes") else "left")
    for entry in ledger.entries(RoundEntry, SuccessionEntry):
        if isinstance(entry.body, RoundEntry):
            _rows(table, entry.body, states.get(entry.round + 1, "")[:12])
        elif isinstance(entry.body, SuccessionEntry):
            assert ledger.charge is not None
            who = ledger.charge.name(entry.body.key)
            table.add_row(str(entry.round), *[""] * 6, f"{who} takes over")
    console.print(table)
    peers = sum(1 for _ in ledger.entries(PeerEntry))
    console.print(
        f"\nrun {genesis.run[:16]}, {genesis.parameters:,} parameters, {peers} peers; "
        f"{count} entries, chain and signatures hold; head {ledger.head[:16]}"
        + _in_charge(ledger.charge)
    )
    ledger.close()


def _in_charge(charge: "Charge | None") -> str:
    """The leader, where the specification names successors."""
    if charge is None or len(charge.voters) == 1:
        return ""
    return f"\nleader: {charge.name(charge.key)}, key {charge.key[:10]}, term {charge.term}"


def _rows(table: Table, entry: "RoundEntry", state: str) -> None:
    for row, (peer, block) in enumerate(sorted(entry.blocks.items())):
        said = entry.contributions.get(peer)
        reason = entry.closed.rejected.get(peer)
        table.add_row(
            str(entry.closed.round) if row == 0 else "",
            str(peer),
            str(block),
            f"{said.tokens:,}" if said else "-",
            f"{said.loss:.3f}" if said else "-",
            show_size(said.size) if said else "-",
            f"[red]no: {reason}[/]" if reason else "yes",
            state if row == 0 else "",
        )


@plain_errors
def generate(
    run: Model,
    prompt: Annotated[str, typer.Option(help="The text to go on from.")] = "def ",
    tokens: Annotated[int, typer.Option(help="How many tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token each time.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Another seed, another text.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Let the model of a finished run, or of any folder, go on with a text."""
    if tokens < 1 or temperature < 0:
        fail("--tokens must be at least 1 and --temperature at least 0")
    model = _model_of(run)
    from duckweed.learn.device import choose
    from duckweed.round.export import generate as continued

    text = continued(model, prompt, tokens, temperature, seed, choose(device))
    console.print(text, markup=False, soft_wrap=True)


@plain_errors
def evaluate(
    run: Model,
    data: Annotated[list[str], typer.Option(help="Text to measure the model on. Repeatable.")],
    field: Annotated[str, typer.Option(help="Field of JSON, column of .parquet.")] = "text",
    encoding: Annotated[str, typer.Option(help="Of text without a byte-order mark.")] = "utf-8",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Bits per byte and perplexity of a finished run's model, or of any folder's, on any text."""
    model = _model_of(run)
    from transformers import AutoModelForCausalLM

    from duckweed.learn.data import dataset as datasets
    from duckweed.learn.device import choose
    from duckweed.learn.model.model import buffers_of, quiet, read_weights
    from duckweed.learn.registry import learner
    from duckweed.pages.run_summary import bits_per_byte
    from duckweed.round.export import bytes_per_token
    from duckweed.round.founding import cache_folder
    from duckweed.run import folder as folders
    from duckweed.run import spec as specs
    from duckweed.run.sections import DataSpec

    if model == run:
        spec = specs.override(specs.RunSpec(), {"model.sequence": SEQUENCE})
    else:
        spec = specs.load(folders.find(run).spec)
    tokenizer = str(model.resolve())
    wanted = DataSpec(tuple(data), field, tokenizer, held_out=1.0, encoding=encoding)
    with console.status("reading the data"):
        dataset = datasets.prepare(wanted, Path.cwd(), cache_folder())
    place = choose(device)
    with console.status("measuring"):
        with quiet():
            network: Any = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False)
        most = getattr(network.config, "max_position_embeddings", None) or SEQUENCE
        length = max(2, min(spec.model.sequence, most, len(dataset.held_out) - 1))
        spec = specs.override(spec, {"model.sequence": length})
        one = learner(spec, network.config, dataset, place)
        if buffers := buffers_of(network):
            one.fix(buffers)
        nats, tokens = one.evaluate(read_weights(network), None, batch=16)
    loss = nats / tokens
    console.print(
        f"[bold]{bits_per_byte(loss, bytes_per_token(dataset)):.4f} bits per byte[/], perplexity "
        f"{math.exp(loss):.3f} per token, over {tokens:,} tokens "
        f"({dataset.manifest.held_out_bytes:,} bytes of text)"
    )


def _model_of(run: Path) -> Path:
    from duckweed.run import folder as folders

    if (run / "config.json").is_file():
        return run  # the folder of a model that is no run
    folder = folders.find(run)
    if not (folder.model / "config.json").is_file():
        fail(
            f"{folder.path} has no model yet: the run is not finished. "
            f"Go on with it: duckweed train --resume {folder.path}"
        )
    return folder.model
