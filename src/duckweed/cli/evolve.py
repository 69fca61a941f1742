"""`duckweed evolve`: a machine improves its own recipe."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import fail, plain_errors

if TYPE_CHECKING:
    from duckweed.evolve.budget import Budget
    from duckweed.evolve.campaign.create import OpenCampaign
    from duckweed.evolve.campaign.loop import Loop
    from duckweed.evolve.decide.requests import Settings
    from duckweed.evolve.folder import CampaignFolder
    from duckweed.evolve.propose.language_model import LanguageModel
    from duckweed.evolve.space.registry import Registry
    from duckweed.evolve.workers.pool import Pool
    from duckweed.swarm.protocol.invitation import Invitation

console = PlainConsole()


def register(app: typer.Typer) -> None:
    """Add the command group `evolve` to the app."""
    group = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    group.callback(invoke_without_command=True)(evolve)
    group.command()(show)
    group.command()(repeat)
    group.command()(work)
    app.add_typer(
        group,
        name="evolve",
        help="Spend compute on a better recipe: propose, test honestly, adopt what holds.",
    )


@plain_errors
def evolve(
    context: typer.Context,
    budget: Annotated[str, typer.Option(help="Time of this machine (2h, 90m) or 1e15flop; never exceeded.")] = "2h",
    workers: Annotated[list[str] | None, typer.Option(metavar="N|INVITATION", help="Worker processes here, one core each (1 without), and machines that run `duckweed evolve work`. Repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the campaign. Without: evolve/campaign-N.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a campaign (--out, or the newest one).")] = False,
    data: Annotated[list[str] | None, typer.Option(help="Text: files, folders, globs, or 'stdlib'. Repeatable.")] = None,
    tokenizer: Annotated[str, typer.Option(help="bytes, bpe:N, or a tokenizer.")] = "bytes",
    preset: Annotated[str, typer.Option(help="The model to train: preset, folder or config.json.")] = "llama-0.5m",
    peers: Annotated[int, typer.Option(min=1, max=64, help="Peers of a trial. Without: one alone, which exchanges nothing; from 2 on wire, merge and outer optimizer are varied too.")] = 1,
    trial: Annotated[str, typer.Option(help="Training compute of a reference trial.")] = "1.2e11flop",
    alpha: Annotated[float, typer.Option(help="False discovery rate of the campaign.")] = 0.05,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Any other setting of the campaign, such as pairs=16.")] = None,
    seed: Annotated[int, typer.Option(help="Everything random follows from it and the ledger.")] = 0,
    llm: Annotated[str | None, typer.Option(metavar="URL", help="An OpenAI-compatible endpoint as a further proposer; key in DUCKWEED_LLM_KEY.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="With --llm: the model's name there.")] = None,
) -> None:  # fmt: skip
    """Improve a training recipe within a budget: every change is tested against its parent on
    fresh seeds, at equal compute, and measured at the end on text and seeds that nothing else used.

    Stop with Ctrl-C or a file named `stop` in the folder; go on with --resume.
    """
    if context.invoked_subcommand is not None:
        return
    from duckweed.evolve import budget as budgets

    limit = budgets.parse(budget)
    hands = _workers(workers or [])
    if (llm is None) != (model is None):
        fail("--llm URL and --model NAME go together (--preset names the model to train)")
    if resume and (data or set_ or peers > 1):
        fail(
            "a campaign keeps its data and settings: --data, --peers and --set do not go with --resume"
        )
    folder = _existing(out) if resume else out or _next(Path("evolve"))
    with console.status("loading PyTorch"):
        if resume:
            campaign = _reopened(folder)
        else:
            settings = _settings(trial, alpha, seed, set_)
            campaign = _created(folder, preset, data, tokenizer, peers, settings)
    try:
        _run(campaign, limit, hands, _endpoint(campaign.registry, llm, model))
    except KeyboardInterrupt:
        console.print(
            f"Nothing is lost. Go on with: duckweed evolve --resume --out {folder} --budget {budget}"
        )
        raise typer.Exit(130) from None


def _workers(words: list[str]) -> tuple[int, list[Invitation]]:
    """Processes here, at least one, and invitations to machines elsewhere."""
    from duckweed.evolve.workers.remote_worker import invitations

    numbers = [word for word in words if len(word) < 5]  # an invitation is longer
    if not all(word.isdigit() and int(word) for word in numbers):
        fail(f"--workers {' '.join(numbers)}: a number of processes, or invitations")
    return sum(map(int, numbers)) or 1, invitations([w for w in words if w not in numbers])


def _settings(trial: str, alpha: float, seed: int, assignments: list[str] | None) -> Settings:
    """The campaign's settings from options."""
    import msgspec

    from duckweed.evolve import budget as budgets
    from duckweed.evolve.decide.requests import Settings

    reference = budgets.parse(trial)
    if reference.flops is None:
        fail(f"--trial {trial}: compute is wanted, such as 1.2e11flop")
    changes: dict[str, Any] = {"budget": reference.flops, "alpha": alpha, "seed": seed}
    changes |= dict(_assignment(text) for text in assignments or [])
    try:
        return msgspec.convert(changes, Settings, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(Settings.__struct_fields__)
        fail(f"settings: {error} (known: {known})")


def _assignment(text: str) -> tuple[str, object]:
    """KEY=VALUE, the value in TOML or as a bare word."""
    import tomllib

    key, equals, value = text.partition("=")
    if not equals:
        fail(f"--set {text}: expected KEY=VALUE, such as pairs=16")
    try:
        return key.strip(), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value


def _created(
    folder: Path, model: str, data: list[str] | None, tokenizer: str, peers: int, settings: Settings
) -> OpenCampaign:
    from duckweed.evolve.campaign.create import create, plain_specification

    spec = plain_specification(model, data, tokenizer, peers)
    return create(folder, spec, Path.cwd(), settings)


def _reopened(path: Path) -> OpenCampaign:
    from duckweed.evolve.campaign.create import reopen
    from duckweed.evolve.folder import find

    return reopen(find(path))


def _endpoint(registry: Registry, url: str | None, name: str | None) -> LanguageModel | None:
    if url is None or name is None:
        return None
    from duckweed.evolve.propose.language_model import LanguageModel

    return LanguageModel(registry, url, name, os.environ.get("DUCKWEED_LLM_KEY", ""))


def _run(
    campaign: OpenCampaign, limit: Budget, workers: tuple[int, list[Invitation]], model: LanguageModel | None
) -> None:  # fmt: skip
    """Run the campaign, watched; then write and say what it found."""
    from duckweed.cli.views.evolve import EvolveView
    from duckweed.evolve.campaign.create import allocator
    from duckweed.evolve.campaign.loop import Loop
    from duckweed.evolve.workers.pool import Pool
    from duckweed.run.lock import alone

    folder, journal = campaign.folder, campaign.journal
    own, invited = workers
    count = own + len(invited)
    members = allocator(campaign, model)
    reason = "stopped"
    try:
        with (
            _terminated_as_interrupted(),
            alone(folder.lock, wait=False),
            EvolveView(console, folder, limit, count) as view,
            contextlib.ExitStack() as outside,
            Pool(folder, own, started=journal.processes) as pool,
        ):
            loop = Loop(campaign, pool, members, limit, count, view.take)
            _invite(invited, folder, pool, loop, outside)
            with contextlib.suppress(KeyboardInterrupt):
                reason = loop.run()
    finally:
        journal.close()
    console.print(f"{reason[0].upper()}{reason[1:]}.")
    _finish(folder)
    if reason == "stopped":
        raise KeyboardInterrupt


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends what runs as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _invite(
    invited: list[Invitation], folder: CampaignFolder, pool: Pool, loop: Loop, outside: contextlib.ExitStack
) -> None:  # fmt: skip
    """Machines elsewhere, without those that were expelled before."""
    if not invited:
        return
    from duckweed.evolve.entries import GuestEntry
    from duckweed.evolve.workers.remote_worker import Connections, RemoteWorker
    from duckweed.net.identity import load_or_create

    connections = Connections(load_or_create(folder.key))
    outside.callback(connections.close)

    def say(remote: RemoteWorker, reason: str) -> None:
        loop.report(GuestEntry(remote.key, remote.number, remote.expelled, reason))

    for one in invited:
        if one.coordinator in loop.journal.expelled:
            name = one.coordinator[:8]
            console.print(f"remote worker {name} was expelled from this campaign; not asked")
            continue

        def make(number: int, one: Invitation = one) -> RemoteWorker:
            return RemoteWorker(one, number, folder, connections, say)

        pool.invite(make)


def _finish(folder: CampaignFolder) -> None:
    from duckweed.cli.views.evolve import verdict
    from duckweed.evolve.campaign.outcome import write_outcome
    from duckweed.pages.evolve_page import evolve_page

    outcome = write_outcome(folder)
    folder.report.write_text(evolve_page(folder.path.name, outcome), encoding="utf-8")
    console.print(verdict(outcome))
    console.print(
        f"\n{folder.evolved}: train with it: duckweed train --recipe {folder.evolved}\n"
        f"{folder.report}: the whole story; the ledger: duckweed evolve show {folder.path}"
    )


@plain_errors
def show(
    run: Annotated[Path, typer.Argument(help="A campaign: its folder, or its name under evolve/.")],
    export: Annotated[Path | None, typer.Option(metavar="FILE.jsonl", help="Write the ledger as JSON lines.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write the report once more.")] = None,
) -> None:  # fmt: skip
    """The ledger of a campaign as a table: what was tried, accepted or not and why."""
    from duckweed.cli.views.evolve import ledger_tables
    from duckweed.evolve.campaign.history import read
    from duckweed.evolve.campaign.outcome import export_ledger, write_outcome
    from duckweed.evolve.folder import find
    from duckweed.ledger.ledger import Ledger
    from duckweed.net.identity import verify
    from duckweed.pages.evolve_page import evolve_page

    folder = find(run)
    ledger = Ledger(folder.ledger)
    history = read(ledger)
    count = ledger.verify(verify)
    for part in ledger_tables(history):
        console.print(part)
    console.print(f"\n{count} entries, chain and signatures hold; head {ledger.head[:16]}")
    ledger.close()
    if export:
        export_ledger(folder, export)
    if report:
        report.write_text(evolve_page(folder.path.name, write_outcome(folder)), encoding="utf-8")


@plain_errors
def repeat(
    run: Annotated[Path, typer.Argument(help="A campaign: its folder, or its name under evolve/.")],
    entries: Annotated[list[int] | None, typer.Argument(help="Numbers of trials in the ledger. Without: --count at random.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many, where none is named.")] = 2,
) -> None:  # fmt: skip
    """Run trials again from the ledger and compare weights and loss, bit for bit."""
    from duckweed.evolve.campaign.create import SAME_TRIALS, check_format, made_with
    from duckweed.evolve.entries import CampaignEntry
    from duckweed.evolve.folder import find
    from duckweed.evolve.workers import rerun as again
    from duckweed.ledger.ledger import Ledger
    from duckweed.run.lock import Busy, alone

    folder = find(run)
    ledger = Ledger(folder.ledger)
    genesis = next(ledger.entries(CampaignEntry)).body
    check_format(folder, genesis, SAME_TRIALS)
    then, now = genesis.made_with, made_with()
    wanted = again.chosen(ledger, entries or [], count)
    ledger.close()
    if other := [key for key in now if then.get(key) != now[key]]:
        what = ", ".join(f"{key} {then.get(key, 'unknown')} (here {now[key]})" for key in other)
        console.print(f"The campaign was made with {what}: bits may differ.")
    differs = 0
    try:
        with alone(folder.lock, wait=False):
            for one in again.repeat(folder, wanted):
                differs += not one.same
                before = one.entry.body.result
                console.print(
                    f"entry {one.entry.number} ({one.entry.body.purpose}): loss {before.loss}, "
                    f"now {one.result.loss}; weights {before.weights[:16]}, now "
                    f"{one.result.weights[:16]}: {'the same' if one.same else 'DIFFERS'}"
                )
    except Busy:
        fail(f"{folder.path} is at work; wait, or repeat in a copy of the folder")
    if differs:
        fail(f"{differs} of {len(wanted)} trials gave something else")


@plain_errors
def work(
    home: Annotated[Path, typer.Option(help="Where this machine keeps its key and campaigns' text.")] = Path("evolve-work"),
    listen: Annotated[str, typer.Option(help="Address and UDP port.")] = "0.0.0.0:0",
    public: Annotated[list[str] | None, typer.Option(help="IP:PORT at which others reach this machine, if it is not its own.")] = None,
) -> None:  # fmt: skip
    """Run trials for somebody else's campaign on this machine: one core, at most 4 GB a trial.

    Prints the invitation to give to `duckweed evolve --workers`. Ctrl-C ends it.
    """
    import asyncio

    with console.status("loading PyTorch"):
        import torch  # noqa: F401

        from duckweed.evolve.workers.worker_server import WorkerServer, secret_of
    from duckweed.evolve.workers.worker_protocol import RUN
    from duckweed.net.identity import load_or_create
    from duckweed.run.folder import private
    from duckweed.run.lock import Busy, alone
    from duckweed.swarm.protocol.invitation import Invitation

    async def serve() -> None:
        secret = secret_of(home)
        server = WorkerServer(home, secret, lambda text: console.print(text))
        identity = load_or_create(home / "key")
        endpoint = await server.serve(identity, listen)
        where = (*(public or []), *endpoint.addresses)
        invitation = Invitation(RUN, identity.id, where, secret)
        console.print("This line lets a campaign run trials here:\n")
        console.print(f"duckweed evolve --workers {invitation}\n", soft_wrap=True)
        try:
            await server.served()
        finally:
            server.end()
            await endpoint.close()

    private(home)
    try:
        with _terminated_as_interrupted(), alone(home / "lock", wait=False):
            asyncio.run(serve())
    except KeyboardInterrupt:
        console.print("Ended. Campaigns run elsewhere what was under way here.")
        raise typer.Exit(130) from None
    except Busy:
        fail(f"{home} is at work already; give another --home")


def _next(root: Path) -> Path:
    from duckweed.run.folder import next_name

    return root / next_name(root, "campaign")


def _existing(out: Path | None) -> Path:
    if out is not None:
        return out
    found = sorted(Path("evolve").glob("*/ledger.db"), key=lambda p: p.stat().st_mtime)
    if not found:
        fail("no campaign under evolve/ to go on with; name its folder with --out")
    return found[-1].parent
