"""`duckweed show`, `duckweed generate`, `duckweed evaluate`: looking at runs and their models."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from duckweed.cli.common import specified
from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import fail, plain_errors
from duckweed.cli.common.families import Mix, only_of_families
from duckweed.cli.common.running import Plugins
from duckweed.run.units import show_size

if TYPE_CHECKING:
    from duckweed.family.folder import FamilyFolder
    from duckweed.ledger.entries import AuditEntry, RoundEntry
    from duckweed.ledger.leadership import Leadership

console = PlainConsole()
Run = Annotated[Path, typer.Argument(help="A run: its folder, or its name under runs/.")]


def register(app: typer.Typer) -> None:
    app.command()(show)
    app.command()(generate)
    app.command()(evaluate)


@plain_errors
def show(run: Run) -> None:
    """The ledger of a run as a table: who contributed what, accepted or why not. Of a family its paths, and what
    each learnt."""
    from duckweed.audit import outcomes
    from duckweed.cli.common import families
    from duckweed.family import folder as family_folders
    from duckweed.ledger.entries import (
        AuditEntry,
        GenesisEntry,
        PeerEntry,
        RoundEntry,
        StateEntry,
        SuccessionEntry,
    )
    from duckweed.ledger.ledger import Ledger
    from duckweed.net.identity import verify
    from duckweed.round import signed
    from duckweed.run import folder as folders

    if family := family_folders.find(run):
        families.show(family)
        return
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
    for entry in ledger.entries(RoundEntry, AuditEntry, SuccessionEntry):
        if isinstance(entry.body, RoundEntry):
            _rows(table, entry.body, states.get(entry.round + 1, "")[:12])
            _writing_rows(table, entry.body)
        elif isinstance(entry.body, AuditEntry):
            _audit_row(table, entry.round, entry.body)
        elif isinstance(entry.body, SuccessionEntry):
            assert ledger.leadership is not None
            who = ledger.leadership.name(entry.body.key)
            table.add_row(str(entry.round), *[""] * 6, f"{who} takes over")
    console.print(table)
    said = signed.check(ledger, verify)
    peers = sum(1 for _ in ledger.entries(PeerEntry))
    audits = [(entry.round, entry.body) for entry in ledger.entries(AuditEntry)]
    audited = outcomes.told(audits)
    console.print(
        f"\nrun {genesis.run[:16]}, {genesis.parameters:,} parameters, {peers} peers; "
        f"{count} entries, chain and signatures hold; head {ledger.head[:16]}\n"
        f"{said.signed} contributions are signed by their peers"
        + (f", {said.unsigned} of an older version are unsigned" if said.unsigned else "")
        + (f"\n{audited}" if audited else "")
        + _leadership(ledger.leadership)
    )
    ledger.close()
    if said.wrong:
        fail(
            f"{folder.ledger}: what the ledger says of a contribution is not what its peer signed; the "
            f"leader that wrote it is at fault: {'; '.join(said.wrong[:10])}"
        )
    if unfounded := list(outcomes.unfounded(audits)):
        fail(
            f"{folder.ledger}: what the ledger says of an audit does not follow from its verdicts; the "
            f"leader that wrote it is at fault: {'; '.join(unfounded[:10])}"
        )


def _audit_row(table: Table, round_: int, audit: "AuditEntry") -> None:
    """How an audit ended, after the round in which it did."""
    found = ", ".join(
        f"{peer} {'no fault' if one.fits else 'fault'}" for peer, one in audit.verdicts.items()
    )
    told = f"audit of round {round_}: {audit.outcome}" + (f" ({found})" if found else "")
    bad = audit.outcome in ("failed", "unshown") or audit.out
    table.add_row("", str(audit.peer), *[""] * 5, Text(told, "red" if bad else ""))


def _leadership(leadership: "Leadership | None") -> str:
    """The leader, where the specification names successors."""
    if leadership is None or len(leadership.voters) == 1:
        return ""
    return f"\nleader: {leadership.name(leadership.leader)}, key {leadership.leader[:10]}, term {leadership.term}"


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
            Text(f"no: {reason}", "red") if reason else "yes" if said else "audited another peer",
            state if row == 0 else "",
        )


def _writing_rows(table: Table, entry: "RoundEntry") -> None:
    """What peers wrote who do not train, and why it does not count."""
    for peer, said in sorted(entry.writings.items()):
        how = f"answers by the weights of round {said.round}, for round {entry.closed.round + 1}"
        table.add_row(
            "", str(peer), str(said.block), f"{said.tokens:,}", f"{said.loss:.3f}", "", "yes", how
        )
    for peer in sorted(entry.closed.rejected.keys() - entry.blocks):
        told = Text(f"no: {entry.closed.rejected[peer]}", "red")
        table.add_row("", str(peer), "", "-", "-", "", told, "answers")


@plain_errors
def generate(
    run: Run,
    prompt: Annotated[str, typer.Option(help="The text to go on from. Default: nothing.")] = "",
    tokens: Annotated[int, typer.Option(help="How many tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token each time.")] = 0.7,
    top_p: Annotated[
        float,
        typer.Option(
            help="Draw from the likeliest tokens that have this probability together; 1: from all."
        ),
    ] = 0.95,
    seed: Annotated[int, typer.Option(help="Another seed, another text.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    mix: Mix = 1,
) -> None:
    """Let the model of a finished run, or of any folder in Hugging Face's format, go on with a text, which
    is shown as it is written. The same seed, the same text on the same machine. Of a family of paths the
    prompt's first tokens choose the path."""
    if tokens < 1 or temperature < 0:
        fail("--tokens must be at least 1 and --temperature at least 0")
    if not 0 < top_p <= 1:
        fail(f"--top-p {top_p:g}: must be greater than 0 and at most 1")
    from duckweed import session
    from duckweed.family import folder as families
    from duckweed.run.checked import plain

    def write(text: str) -> None:
        typer.echo(plain(text, keep="\n\t"), nl=False)
        sys.stdout.flush()

    if family := families.find(run):
        from duckweed.family import routing

        routing.generate(
            family, prompt, tokens, temperature, seed, device, top_p, write, routed_to, mix
        )
    else:
        only_of_families(mix)
        session.generate(run, prompt, tokens, temperature, seed, device, top_p, write)
    typer.echo()


@plain_errors
def evaluate(
    run: Run,
    data: Annotated[
        list[str] | None, typer.Option(help="Text to measure the model on. Repeatable.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Problems to solve: environments, such as countdown,chain_sum; or 'own'."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(help="With --tasks: answers to each problem.")] = 8,
    problems: Annotated[int, typer.Option(help="With --tasks: held-out problems of each.")] = 200,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --tasks: a key of section [task], such as tokens=128."),
    ] = None,
    field: specified.Field = None,
    encoding: specified.Encoding = None,
    limit: specified.Limit = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    plugin: Plugins = None,
    mix: Mix = 1,
) -> None:
    """Bits per byte and perplexity on any text, of a finished run's model or of any folder in Hugging Face's
    format. Of a family of paths each sequence is routed, and measured behind the tokens that route it. With --tasks: the share of held-out problems that it solves with one answer and with several."""
    if (data is None) == (tasks is None):
        fail(
            "give either --data with a text, or --tasks with names of environments ('own': the run's)"
        )
    if tasks is not None:
        _examine(run, tasks, samples, problems, set_ or [], device, plugin or [])
        return
    assert data is not None
    from duckweed.family import folder as families

    if family := families.find(run):
        _evaluate_family(
            family, data, field or "text", encoding or "utf-8", device, specified.size(limit), mix
        )
        return
    only_of_families(mix)
    with console.status("loading PyTorch") as status:
        from duckweed import session

        found = session.evaluate(
            run, data, field or "text", encoding or "utf-8", device, plugin or (), status.update,
            specified.size(limit),
        )  # fmt: skip
    console.print(
        Text.assemble(
            (f"{found.bits_per_byte:.4f} bits per byte", "bold"),
            f", perplexity {math.exp(found.nats):.3f} per token, over {found.tokens:,} tokens "
            f"({found.text_bytes:,} bytes of text)",
        )
    )


def _evaluate_family(
    family: "FamilyFolder",
    data: list[str],
    field: str,
    encoding: str,
    device: str,
    limit: int | None,
    mix: int,
) -> None:
    with console.status("loading PyTorch") as status:
        from duckweed.family import routing

        found = routing.evaluate(family, data, field, encoding, device, status.update, limit, mix)
    whole = found.whole
    console.print(
        Text.assemble(
            (f"{whole.bits_per_byte:.4f} bits per byte", "bold"),
            f", perplexity {math.exp(whole.nats):.3f} per token, over {whole.tokens:,} tokens "
            f"({whole.text_bytes:,} bytes of text, of which the tokens that route each sequence are not measured)",
        )
    )
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found.shares.items())
    console.print(f"routed to {shares}", style="dim")


def routed_to(text: str) -> None:
    """Says which path was chosen, beside the text that a model writes."""
    PlainConsole(stderr=True).print(text, style="dim")


def _examine(
    run: Path,
    tasks: str,
    samples: int,
    problems: int,
    assignments: list[str],
    device: str,
    plugins: list[Path],
) -> None:
    """Print how many problems are solved."""
    if samples < 1 or problems < 1:
        fail("--samples and --problems must be at least 1")
    names = [] if tasks == "own" else [name.strip() for name in tasks.split(",") if name.strip()]
    changes = specified.changes(assignments=assignments)
    with console.status("loading PyTorch") as status:
        from duckweed import session
        from duckweed.pages.run_summary import readable

        found = session.examine(
            run, names, samples, problems, device, plugins, status.update, changes
        )
    table = Table(box=None, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("problems")
    for name in ("pass@1", "", f"pass@{samples}", "", "tokens"):
        table.add_column(name, justify="right")
    for one in found:
        cells = []
        for k in (1, samples):
            low, high = one.interval(k)
            cells += [f"{one.pass_at(k):.1%}", f"{low:.1%} to {high:.1%}"]
        table.add_row(f"{one.name}, {len(one.right)} held out", *cells, f"{one.tokens:.0f}")
    console.print(table)
    failed = sum(one.failed for one in found)
    if failed:
        console.print(
            f"{failed} checks raised or took too long, and counted as wrong", style="yellow"
        )
    console.print(
        f"pass@k: at least one of k answers is right. 95 % intervals; {samples} answers to each problem, "
        "estimated without bias",
        style="dim",
    )
    if found and found[0].shown:
        shown = found[0].shown[0]
        console.print(f"\nfor example ({'right' if shown.right else 'wrong'}):", style="dim")
        console.print(Text(f"{shown.question.strip()}\n{readable(shown.written).strip()}"))
