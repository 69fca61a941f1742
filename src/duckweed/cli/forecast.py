"""duckweed forecast: where this leaves us."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any

import typer

Names = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace an assumption: frontier.growth=3x, race.returns=1.5, race.rival.leak=0.2..0.6, ...",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command group `forecast` to the app."""
    group = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    group.callback(invoke_without_command=True)(forecast)
    group.command()(refresh)
    app.add_typer(
        group,
        name="forecast",
        help="Where the frontier will be, and what self-improving AI does to a lead.",
    )


def forecast(
    context: typer.Context,
    claims: Annotated[
        bool, typer.Option("--claims", help="The essay's five claims, with their numbers.")
    ] = False,
    race: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Run a race: essay, peers, forethought, collective, cut, paradigm, or a scenario file.",
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every parameter: value, interval, reason, source.")
    ] = False,
    settings: Names = None,
    as_of: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Use only what was known then; today by default."),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.csv", help="A file of Epoch AI in place of our own table."),
    ] = None,
    returns: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN|FILE",
            help="Measured returns to research: an evolve run, or its returns.json.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=100, max=1_000_000, help="Samples of each race.")
    ] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="The figures as CSV.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="One self-contained page with sliders.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="Write the claims as a page of Markdown.")
    ] = None,
) -> None:
    """How fast the frontier moves, whether decentralised training catches up, and the race.

    Without options: verdicts, gaps, dates of crossing and growth rates, from our own tables.
    """
    if context.invoked_subcommand is not None:
        return
    with _errors():
        if as_json and as_csv:
            raise ValueError("--json and --csv contradict each other; choose one")
        measured = _measured(returns) if returns else None
        if race is not None or explain:
            _race(race or "collective", explain, settings or [], measured, samples, as_json)
            return
        day = _date(as_of)
        facts, chosen, result = _outlook(settings or [], day, data or [], measured, samples)
        _files(facts, chosen, result, day, html, markdown)
        if as_json or as_csv or not (html or (markdown and not claims)):
            _print(result, "json" if as_json else "csv" if as_csv else "claims" if claims else "")


def _measured(path: Path) -> Any:
    from duckweed.forecast.data.measured import read_returns

    found = read_returns(path)
    if found.caution:
        typer.echo(f"{path}: {found.caution}", err=True)
    return found.spread


def _race(
    name: str, explain: bool, items: list[str], measured: Any, samples: int, as_json: bool
) -> None:
    import msgspec

    from duckweed.cli.views import forecast as text
    from duckweed.forecast import outcome, scenario, setting

    race = scenario.load(name)
    changes = setting.parse_race(items)
    if measured is not None:
        changes.setdefault("returns", measured)
    race = scenario.with_world(race, changes)
    if explain:
        rows = outcome.explain(race)
        keys = ("name", "value", "unit", "reason", "source")
        found: Any = [dict(zip(keys, row, strict=True)) for row in rows]
        typer.echo(msgspec.json.encode(found).decode() if as_json else text.explained(rows))
        return
    result = outcome.outcome(race, samples)
    if as_json:
        typer.echo(msgspec.json.encode(result).decode())
        return
    sways = outcome.dependence(race, min(samples, 2000))
    typer.echo(text.race(result, sways, outcome.regimes(race)))


def _outlook(
    items: list[str], as_of: dt.date, data: list[Path], measured: Any, samples: int
) -> Any:
    """Facts, settings and the forecast."""
    from duckweed.forecast import outlook, setting, trend
    from duckweed.forecast.data import epoch, table

    facts = table.own_facts(as_of)
    for path in data:
        facts = epoch.with_file(facts, path)
    chosen = setting.parse(items, list(trend.all_series(facts)))
    return facts, chosen, outlook.outlook(facts, chosen, measured, samples)


def _files(
    facts: Any, chosen: Any, result: Any, as_of: dt.date, html: Path | None, markdown: Path | None
) -> None:
    """Write the pages that were asked for."""
    from duckweed.forecast.claims import claims

    if markdown:
        from duckweed.pages.forecast_page import claims_markdown

        command = f"duckweed forecast --as-of {as_of} --markdown {markdown}"
        markdown.write_text(claims_markdown(result, claims(result), command), "utf-8")
    if html:
        from duckweed.pages.forecast_page import forecast_page

        html.write_text(forecast_page(facts, chosen, result, claims(result)), "utf-8")
        typer.echo(f"wrote {html}", err=True)


def _print(result: Any, form: str) -> None:
    import csv
    import sys

    import msgspec

    from duckweed.cli.views import forecast as text
    from duckweed.forecast import claims as cl
    from duckweed.forecast import outlook

    found = cl.claims(result)
    if form == "json":
        body = {"outlook": result, "claims": found}
        typer.echo(msgspec.json.format(msgspec.json.encode(body), indent=1).decode())
    elif form == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows(outlook.csv_rows(result))
    else:
        typer.echo(text.claims_page(found) if form == "claims" else text.summary(result, found))


def refresh(
    to: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the files go.")] = Path(
        "epoch-data"
    ),
) -> None:
    """Download Epoch AI's newest files and say what changed. Only this needs the network."""
    from duckweed.forecast.data import epoch

    with _errors():
        for change in epoch.refresh(to):
            typer.echo(f"{to / change.file}: {change.before} rows before, {change.after} now")
            for word, names in (("new", change.new), ("gone", change.gone)):
                if names:
                    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
                    typer.echo(f"  {word}: {', '.join(names[:8])}{more}")
        typer.echo(f"Use them: duckweed forecast --data {to / 'notable_ai_models.csv'}")


def _date(text: str | None) -> dt.date:
    from duckweed.forecast.data.table import parse_date

    return parse_date(text) if text else dt.date.today()


class _errors:
    """What a user did wrong becomes one line on stderr and exit status 2."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (ValueError, OSError)):
            typer.echo(f"duckweed forecast: {error}", err=True)
            raise typer.Exit(2) from error
