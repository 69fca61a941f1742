"""What a campaign leaves for a reader: history, page, tables."""

import gzip
import io
import json
import re
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from duckweed.cli.views.evolve import ledger_tables
from duckweed.evolve.budget import Budget
from duckweed.evolve.campaign.create import plain_specification
from duckweed.evolve.campaign.history import History, read
from duckweed.evolve.campaign.journal import Journal
from duckweed.evolve.campaign.outcome import CampaignOutcome
from duckweed.evolve.statistics import returns
from duckweed.evolve.statistics.multiplier import Multiplier
from duckweed.pages.evolve_page import evolve_page, lineage_figure
from evolve.simulated import loop

LEDGERS = Path(__file__).parents[3] / "bench" / "results" / "evolve"


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> History:
    found = loop(tmp_path_factory.mktemp("report") / "c", Budget(flops=6e11))
    found.run()
    found.journal.close()
    journal = Journal(found.folder.path)
    history = read(journal.ledger)
    journal.close()
    return history


@pytest.mark.parametrize("name", ["0.5m", "0.6m", "peers"])
def test_the_figures_of_older_ledgers_can_still_be_read(name):
    """Format 2 and before: one straight line at the same budgets."""
    lines = gzip.decompress((LEDGERS / name / "campaign.jsonl.gz").read_bytes()).splitlines()
    bodies = [json.loads(line)["body"] for line in lines if b'"kind":"vault"' in line]
    found = [msgspec.convert(body["found"], Multiplier) for body in bodies]
    assert all(f.reported.known and f.reported_se > 0 for f in found)
    assert found[-1].reported.m == pytest.approx(bodies[-1]["found"]["m"])


def page_of(told: History) -> str:
    spec = plain_specification("llama-0.5m", None, "bytes")
    found = returns.returns(told.points(), told.before)
    return evolve_page("<made>", CampaignOutcome(told, found, spec))


def test_the_page_says_what_was_found_and_where_each_figure_is(told):
    page = page_of(told)
    body = page.split("<script")[0]
    best = told.best()
    assert best is not None
    assert best.comparison is not None
    assert f"needs {best.comparison.reported.m:.2f} times less compute" in body
    figures = json.loads(re.findall(r'id="figures">(.*?)</script>', page, re.S)[0])
    assert set(re.findall(r'class="figure" id="(\w+)"', body)) == set(figures)
    assert "&lt;made&gt;" in body
    for d in told.decisions:
        assert f"<td class=number>{d.number}</td>" in body
    gain = figures["gain"]["data"][0]
    assert len(gain["x"]) == 1 + sum(g.comparison is not None for g in told.generations)


def test_the_lineage_has_a_node_for_every_decision(told):
    nodes = [t for t in lineage_figure(told)["data"] if t["mode"] == "markers"]
    assert sum(len(t["x"]) for t in nodes) == 1 + len(told.decisions)
    adopted = next(t for t in nodes if t["name"] == "adopted")
    assert adopted["y"] == [float(g.number) for g in told.generations]


def test_a_campaign_without_a_result_has_a_page_and_says_so(tmp_path):
    found = loop(tmp_path / "c", Budget(flops=6e11))
    found.pool.breaks = 45  # type: ignore[attr-defined]
    found.run()
    found.journal.close()
    journal = Journal(tmp_path / "c")
    history = read(journal.ledger)
    journal.close()
    assert history.pilot is not None
    assert "Nothing better than generation 0 was confirmed" in page_of(history)


def test_planted_ones_are_counted_by_kind_once_their_seals_are_open(told):
    kinds = told.planted()
    assert sum(found.decided for found in kinds.values()) == sum(
        d.proposer == "sealed" and d.outcome != "open" for d in told.decisions
    )
    assert kinds["harmful"].accepted == 0


def test_the_ledger_as_tables_names_every_decision_and_purpose(told):
    console = Console(width=200, record=True, file=io.StringIO())
    for part in ledger_tables(told):
        console.print(part)
    text = console.export_text()
    for purpose in ("tuning", "pilot", "screening", "confirmation", "vault"):
        assert purpose in text
    # Which worker is done first is chance, and the budget may end before the last one is compared.
    compared = [g.comparison.reported for g in told.generations if g.comparison]
    assert len(compared) >= max(1, len(told.generations) - 1)
    for v in compared:
        assert f"{v.m:.2f} ({v.low:.2f} to {v.high:.2f})" in text
    if told.refused:
        assert f"{len(told.refused)} proposals refused" in text
        assert told.refused[0].reason.split()[0] in text
