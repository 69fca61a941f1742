"""`duckweed audit`: what the ledger of a run claims, done again and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import guarded
from duckweed.cli.common.running import Plugins

if TYPE_CHECKING:
    from duckweed.audit.claims import Claims
    from duckweed.audit.findings import Finding, Tally
    from duckweed.audit.learner import Machine

console = PlainConsole()
DIFFERS, NOT_COMPARED = 1, 2  # exit codes
STYLES = {"same": "green", "near": "green", "differs": "bold red", "not compared": "yellow"}
SHOWN = 5  # tensors of a contribution that differs

Say = Callable[[str], None]


def register(app: typer.Typer) -> None:
    app.command()(audit)


def _own_codes(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `plain_errors`, but 1 is for what differs: a ledger that does not hold. All else is 2."""

    def code(error: BaseException) -> int:
        from duckweed.ledger.ledger import LedgerError

        return DIFFERS if isinstance(error, LedgerError) else NOT_COMPARED

    return guarded(command, code)


@_own_codes
def audit(
    run: Annotated[Path, typer.Argument(help="A run: its folder, or its name under runs/.")],
    round_: Annotated[
        int | None, typer.Option("--round", help="This round only. Default: all of them.")
    ] = None,
    peer: Annotated[
        list[int] | None,
        typer.Option(
            help="Train this peer's contributions again, instead of adding them up. With --round: "
            "those to that round, and all that the peer handed in before. Repeatable."
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="The run's text, where it did not begin on this machine. Repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "cpu",
    threads: Annotated[
        int, typer.Option(help="CPU threads. With as many as the peer had, bits can be the same.")
    ] = 1,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    plugin: Plugins = None,
) -> None:
    """Check a run from its ledger and its files: chain, signatures, what was added up, what was trained.

    Without --peer each round is closed again from the contributions that were handed in: which of them
    count, their weights, their sum, the state after it. All of it must be the same to the last bit.

    With --peer the peer's contributions are trained again. On a machine of the same kind they are the same to
    the last bit; elsewhere a few codes differ (docs/audit.md).

    Exit code: 0 all the same (or, of contributions, as near as other honest machines come), 1 something
    differs, 2 something could not be compared.
    """
    from duckweed.audit.claims import Claims
    from duckweed.audit.findings import Outcome, tally
    from duckweed.run import folder as folders
    from duckweed.run import plugins

    folder = folders.find(run)
    plugins.load_of(folder, plugin or ())
    with nullcontext(_Silent()) if json else console.status("reading the ledger") as status:
        claims = Claims(folder)
        _check(claims, round_, peer or [])
        ledger, here = _ledger(claims), None
        if peer:
            status.update("loading PyTorch")
            here = _machine(claims, device, threads)
            given = tuple(data) if data else None
            made = _contributions(claims, round_, peer, given, here.device, status.update)
        else:
            made = _rounds(claims, round_, status.update)
        if not json:
            _print(ledger)
            if here:
                console.print(f"{'trained again on':<29}{here}", soft_wrap=True)
        findings = []
        for finding in made:
            findings.append(finding)
            if not json:
                _print(finding)
    found, left_out = tally(findings), _not_looked_at(claims, round_, bool(peer))
    code = DIFFERS if ledger.outcome == Outcome.DIFFERS else found.code
    if json:
        _print_json(claims, [ledger, *findings], found, left_out, here, code)
    else:
        _summary(found, left_out, code)
    raise typer.Exit(code)


def _ledger(claims: Claims) -> Finding:
    """What was found when the ledger was read."""
    from duckweed.audit import outcomes
    from duckweed.audit.findings import Finding, Outcome

    said, unfounded = claims.said, list(outcomes.unfounded(claims.audits))
    outcome = Outcome.DIFFERS if said.wrong or unfounded else Outcome.SAME
    told = f"{claims.entries} entries, chain and signatures hold; {said.signed} contributions are signed by their peers"
    if said.unsigned:
        told += f", {said.unsigned} of an older version are unsigned"
    if audited := outcomes.told(claims.audits):
        told += f"; {audited}"
    if said.wrong:
        told += f", and {len(said.wrong)} are not what their peers signed: {'; '.join(said.wrong[:SHOWN])}"
    if unfounded:
        told += f"; of the audits does not follow from the verdicts: {'; '.join(unfounded[:SHOWN])}"
    return Finding("ledger", outcome, detail=told, claimed=claims.head)


def _check(claims: Claims, round_: int | None, peers: list[int]) -> None:
    """Raises AuditError for what the ledger does not have."""
    from duckweed.audit.findings import AuditError

    if not claims.rounds:
        raise AuditError(
            f"{claims.folder.path}: no round is closed yet, so there is nothing to audit"
        )
    if round_ is not None and round_ not in claims.rounds:
        raise AuditError(
            f"there is no round {round_} in the ledger, which has {len(claims.rounds)}"
        )
    for peer in peers:
        if peer not in claims.peers:
            raise AuditError(
                f"there is no peer {peer} in the ledger, which has {len(claims.peers)}"
            )


def _audited(claims: Claims, round_: int | None) -> list[int]:
    """The rounds to close again: of a run that goes on, those whose state was agreed on."""
    return (
        sorted(n for n in claims.rounds if n + 1 in claims.agreed) if round_ is None else [round_]
    )


def _rounds(claims: Claims, round_: int | None, say: Say) -> Iterator[Finding]:
    from duckweed.audit.claims import States
    from duckweed.audit.merges import audit_round

    states = States(claims)
    for number in _audited(claims, round_):
        say(f"round {number} of {len(claims.rounds)}: adding up what was handed in")
        yield from audit_round(claims, states, number)


def _machine(claims: Claims, device: str, threads: int) -> Machine:
    """This machine, as contributions are trained on it from here on. Raises AuditError, DeviceError."""
    import torch

    from duckweed.audit.findings import AuditError
    from duckweed.audit.learner import machine
    from duckweed.learn.device import choose

    if threads < 1:
        raise AuditError("--threads must be at least 1")
    torch.set_num_threads(threads)
    return machine(claims, choose(device))


def _contributions(
    claims: Claims,
    round_: int | None,
    peers: list[int],
    data: tuple[str, ...] | None,
    device: str,
    say: Say,
) -> Iterator[Finding]:
    from duckweed.audit.claims import States
    from duckweed.audit.contributions import Contributions, handed_in
    from duckweed.audit.findings import Finding, NotHere, Outcome
    from duckweed.audit.learner import learner_of

    def report(number: int, who: int, done: int, steps: int) -> None:
        say(f"round {number}, peer {who}: step {done} of {steps}")

    try:
        learner = learner_of(claims, data, device, say)
    except NotHere as error:
        for who in peers:
            yield Finding("contribution", Outcome.MISSING, round_, who, str(error))
        return
    for who in peers:
        states = States(claims)
        contributions = Contributions(claims, states, learner, who, report)
        for number in handed_in(claims, who) if round_ is None else [round_]:
            yield contributions.audit(number)


# --- what is said


class _Silent:
    """Stands for a spinner where only JSON is written."""

    def update(self, text: str) -> None:
        pass


def _print(finding: Finding) -> None:
    where = "" if finding.round is None else f"round {finding.round}"
    who = "" if finding.peer is None else f"peer {finding.peer}"
    hashes = finding.claimed[:12]
    if finding.recomputed and finding.recomputed != finding.claimed:
        hashes = f"{hashes or 'none'} claimed, {finding.recomputed[:12]} recomputed"
    name = " ".join(filter(None, (where, who, finding.what)))
    line = Text.assemble(
        f"{name:<28} ",
        (f"{finding.outcome.value:<13}", STYLES[finding.outcome.value]),
        finding.detail,
    )
    if hashes:
        line.append(f" [{hashes}]", "dim")
    console.print(line, soft_wrap=True)
    if finding.difference is None:
        return
    worst = sorted(finding.difference.tensors, key=lambda one: -one.distance)
    worst = [one for one in worst if one.differ]
    for one in worst[:SHOWN]:
        console.print(
            f"{'':<29}{one.differ:,} of {one.codes:,} codes of {one.name}, distance {one.distance:.3g}",
            style="dim",
            soft_wrap=True,
        )
    if len(worst) > SHOWN:
        console.print(f"{'':<29}and {len(worst) - SHOWN} tensors more (--json)", style="dim")


def _not_looked_at(claims: Claims, round_: int | None, trained: bool) -> list[str]:
    """What a reader might think was checked, and was not."""
    if trained:
        return ["what else these peers did with the weights, and contributions of other peers"]
    from duckweed.audit.merges import SIZES

    late = sorted(set(claims.rounds) - set(_audited(claims, round_))) if round_ is None else []
    more = [f"round {n}, whose state the peers have not agreed on yet" for n in late]
    return [SIZES, "how contributions were made (--peer P trains those of peer P again)", *more]


def _summary(found: Tally, left_out: list[str], code: int) -> None:
    counts = {
        "the same": found.same,
        "near": found.near,
        "differ": found.differs,
        "not compared": found.not_compared,
    }
    style = {0: "bold green", DIFFERS: "bold red", NOT_COMPARED: "yellow"}[code]
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    console.print(Text(told or "nothing was compared", style))
    for one in left_out:
        console.print(f"not looked at: {one}", style="dim", soft_wrap=True)


def _print_json(
    claims: Claims,
    findings: list[Finding],
    found: Tally,
    left_out: list[str],
    here: Machine | None,
    code: int,
) -> None:
    import msgspec

    facts = {
        "run": claims.genesis.run,
        "machine": here,  # that contributions were trained on
        **msgspec.to_builtins(found),
        "exit": code,
        "findings": findings,
        "not_looked_at": left_out,
    }
    print(msgspec.json.format(msgspec.json.encode(facts), indent=1).decode())
