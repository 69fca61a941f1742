"""The transport between hosts of the laboratory: NATs, a change of address, a cut."""

import pytest

from bench.scale import sharing
from bench.wan import links
from bench.wan.lab import Host, Lab, unavailable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(unavailable(nat=True)), reason=f"no lab: {unavailable(nat=True)}"),
]


def test_peers_behind_nats_reach_each_other():
    """Port-preserving NATs are punched; with symmetric ones the relay goes on carrying it all."""
    hosts = [
        Host("hub"), Host("p0", nat="preserving"), Host("p1", nat="preserving"),
        Host("p2", nat="symmetric"), Host("p3", nat="symmetric"),
    ]  # fmt: skip
    with Lab(hosts) as lab:
        hub = links.Probe(lab, "hub", "hub", f"{lab.address('hub')}:7000")
        ends = [links.Probe(lab, f"p{n}", "peer", *hub.at) for n in range(4)]
        punched = ends[0].move(ends[1], 1 << 18, settle=30)
        assert punched["direct"]
        relayed = ends[2].move(ends[3], 1 << 18, settle=3)
        assert not relayed["direct"]
        assert relayed["down"] > 0


def test_a_peer_that_changes_its_address_goes_on_and_is_seen_at_the_new_one():
    with Lab([Host("hub"), Host("laptop")]) as lab:
        hub = links.Probe(lab, "hub", "hub", f"{lab.address('hub')}:7000")
        laptop = links.Probe(lab, "laptop", "peer", *hub.at)
        laptop.order(ping=0.2, times=200)
        before = lab.address("laptop")
        assert laptop.hear()["seen"].startswith(f"{before}:")
        after = lab.move("laptop")
        lost = 0
        while not (said := laptop.hear()).get("seen", "").startswith(f"{after}:"):
            lost += "lost" in said
            assert lost < 8, "not found again after eight attempts"


def test_a_host_that_is_cut_off_is_missed_in_seconds_and_found_again():
    with Lab([Host("hub"), Host("p0")]) as lab:
        hub = links.Probe(lab, "hub", "hub", f"{lab.address('hub')}:7000")
        peer = links.Probe(lab, "p0", "peer", *hub.at)
        peer.order(ping=0.2, times=200)
        assert "seen" in peer.hear()
        lab.cut("p0")
        assert any("lost" in peer.hear() for _ in range(12))
        lab.join("p0")
        assert any("seen" in peer.hear() for _ in range(12))


def test_blobs_of_peers_that_cannot_reach_each_other_go_through_one_that_both_reach():
    """Two peers behind symmetric NATs, no relay at all: what one was given first the other has from
    the third, or from the coordinator. Each peer checks what it got."""
    found = sharing.measure(["symmetric", "symmetric", ""], whole=False, size=20 << 16)
    assert found["given_by_a_peer"] > 0
