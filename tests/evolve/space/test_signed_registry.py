"""The list of plants in a campaign: committed to at the beginning, opened at the end."""

import msgspec
import pytest

from duckweed.evolve.budget import Budget
from duckweed.evolve.campaign.history import read
from duckweed.evolve.entries import CampaignEntry, PlantsEntry
from duckweed.evolve.space import signed_registry as releases
from duckweed.evolve.space.switches import REGISTRY
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.net.identity import Identity
from evolve import simulated
from evolve.tiny_campaign import campaign


def test_a_new_campaign_publishes_its_registry_signed_and_commits_to_its_plants(tmp_path):
    folder, journal, _ = campaign(tmp_path)
    genesis = next(iter(journal.ledger.entries(CampaignEntry))).body
    found = releases.read(folder.registry.read_bytes(), journal.key)
    journal.close()
    assert found.identity == genesis.registry == REGISTRY.identity
    assert list(found.commitments) == genesis.plants
    plants = releases.reveal_plants(REGISTRY, folder.secret.read_bytes())
    releases.check_revealed(genesis.plants, plants)


def history(path):
    ledger = Ledger(path / "ledger.db")
    try:
        return read(ledger)
    finally:
        ledger.close()


def test_plants_are_opened_when_the_budget_is_spent_and_not_before(tmp_path):
    one = simulated.loop(tmp_path, Budget(flops=1e30), simulated.SimulatedPool(breaks=5))
    one.run()
    one.journal.close()
    assert history(tmp_path).plants == ()
    two = simulated.loop(tmp_path, Budget(flops=8e11))
    two.run()
    two.journal.close()
    told = history(tmp_path)
    assert [p.label for p in told.plants].count("null") == len(simulated.REGISTRY.nulls)
    assert {p.plant.name for p in told.plants if p.label == "harmful"} == {
        known.name for known in simulated.REGISTRY.harms
    }


def test_plants_with_other_labels_than_committed_are_noticed(tmp_path):
    one = simulated.loop(tmp_path, Budget(flops=1e30), simulated.SimulatedPool(breaks=5))
    plants = releases.reveal_plants(simulated.REGISTRY, one.allocator.secret.key)
    first, *rest = plants
    swapped = msgspec.structs.replace(first, label="harmful" if first.label == "null" else "null")
    one.journal.aside(PlantsEntry((swapped, *rest)))
    one.journal.close()
    with pytest.raises(LedgerError, match="not those"):
        history(tmp_path)


def test_a_registry_signed_by_somebody_else_is_not_the_campaigns(tmp_path):
    folder, journal, _ = campaign(tmp_path)
    journal.close()
    made_up = releases.release(REGISTRY, bytes(32))
    folder.registry.write_bytes(releases.sign(made_up, Identity(bytes(range(32)))))
    with pytest.raises(ValueError, match="signed by"):
        releases.read(folder.registry.read_bytes(), journal.key)
