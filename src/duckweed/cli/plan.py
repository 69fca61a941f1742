"""`duckweed plan`: what can this crowd train?"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duckweed.cli.common.errors import plain_errors
from duckweed.cli.common.running import Plugins

if TYPE_CHECKING:
    from duckweed.plan.answer import Answer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("plan")(plan)


@plain_errors
def plan(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="A run's folder: plan for its model, with what it measured. Or the specification of a run of "
            "reinforcement learning (FILE.toml): what its steps take on this machine."
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="A preset, a config.json, a model folder, dense-7B, or moe-671B-37B."),
    ] = "",
    crowd: Annotated[
        str,
        typer.Option(help="'5000x rtx4090 @ 20/100 Mbps 80ms, 60% online, 6h', or a TOML file."),
    ] = "",
    tokens: Annotated[
        str,
        typer.Option(help="14.8T, or 'optimal' for 20 a parameter; without it the preset's own."),
    ] = "",
    deadline: Annotated[str, typer.Option(help="90 days, 1 year ...")] = "",
    precision: Annotated[str, typer.Option(help="bf16, fp8, fp4 or fp32.")] = "bf16",
    optimizer: Annotated[str, typer.Option(help="adamw, adamw8bit or muon.")] = "adamw",
    context: Annotated[
        int, typer.Option(help="Tokens per sequence; without it the preset's own.")
    ] = 0,
    assume: Annotated[
        list[str] | None, typer.Option(help="Fix an uncertain input: --assume mfu_consumer=0.35.")
    ] = None,
    hub: Annotated[
        str, typer.Option(help="Link of the store or hub: 10 Gbps; without it, unlimited.")
    ] = "",
    saving: Annotated[
        float | None,
        typer.Option(
            help="What run `duckweed train --saving N` gives: N times fewer bytes sent than bf16 data parallelism."
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every formula, values and sources.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a report with plots to this file.")
    ] = None,
    presets: Annotated[
        bool, typer.Option("--list", help="Models and devices in the tables.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the sampled intervals.")] = 0,
    plugin: Plugins = None,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads of a peer, for the steps of a specification.")
    ] = 1,
) -> None:
    """What can this crowd train, how long does it take, what binds, and what would have to change."""
    if presets:
        catalogue()
        return
    if run is not None and run.suffix == ".toml":
        ahead(run, plugin or (), threads, json)
        return
    from duckweed.plan import saving as savings
    from duckweed.plan.answer import answer
    from duckweed.plan.inputs import existing, request

    saving = None if saving is None else savings.check(saving)
    words = request.Request(
        model, crowd, tokens, deadline, precision, optimizer, context, tuple(assume or ()), hub
    )
    asked = existing.read(run, words) if run is not None else request.read(words)
    given = answer(
        asked.target,
        asked.crowd,
        fixed=asked.fixed,
        curves=html is not None,
        seed=seed,
        notes=asked.notes,
        saving=saving,
    )
    show(given, explain, json, html)


def ahead(file: Path, plugin: Sequence[Path], threads: int, json: bool) -> None:
    """What the steps of a run of reinforcement learning will take on this machine."""
    from duckweed.cli.common.console import PlainConsole
    from duckweed.plan.errors import PlanError
    from duckweed.run import spec as specs
    from duckweed.run.task.work import writes

    spec = specs.load(file)
    if not writes(spec):
        raise PlanError(
            f"{file}: is the specification of a run whose model writes nothing; what its steps take is measured when it "
            "begins. Give --model and --crowd, or the folder of a run"
        )
    from duckweed import session
    from duckweed.plan import reinforced

    console = PlainConsole()
    say = (lambda text: None) if json else lambda text: console.print(text, style="dim")
    found = session.pace(spec, file.parent, "cpu", threads, plugin, say)
    planned = reinforced.plan(spec, found)
    if json:
        import json as writer

        typer.echo(writer.dumps(planned.tree(), indent=1))
    else:
        for line in planned.words():
            console.print(line)


def show(given: "Answer", explain: bool, json: bool, html: Path | None) -> None:
    from duckweed.plan.answer import tree

    if html is not None:
        from duckweed.pages.plan_page import plan_page

        html.write_text(plan_page(given), "utf-8")
    if json:
        import json as writer

        typer.echo(writer.dumps(tree(given), indent=1))
        return

    from duckweed.cli.common.console import PlainConsole
    from duckweed.cli.views.plan import print_answer, print_derivation

    console = PlainConsole()
    print_answer(console, given)
    if explain:
        print_derivation(console, given)
    if html is not None:
        console.print(f"Report: {html}")


def catalogue() -> None:
    from duckweed.cli.common.console import PlainConsole
    from duckweed.cli.views.plan import print_catalogue

    print_catalogue(PlainConsole())
