"""What people write is read the way they mean it, or refused with a hint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duckweed.plan.errors import PlanError
from duckweed.plan.inputs import crowd
from duckweed.run import units
from duckweed.run.units import UnitError


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("100 Mbps", 100e6), ("100Mbit/s", 100e6), ("100 mbit/s", 100e6), ("100Mb", 100e6),
        ("12.5 MB/s", 100e6), ("100MB", 800e6), ("1 Gbps", 1e9), ("1 Gibit/s", 2.0**30),
        ("20 kbps", 20e3), ("1.5 Gbit/s", 1.5e9), ("100M", 100e6),
    ],
)  # fmt: skip
def test_rates(text: str, bits: float) -> None:
    assert units.rate(text).value == pytest.approx(bits)


def test_an_ambiguous_rate_says_how_it_was_read() -> None:
    assert "bits" in units.rate("100Mb").said
    assert "bytes" in units.rate("100MB").said
    assert "800 Mbit/s" in units.rate("100MB").said
    assert units.rate("100 Mbit/s").said == ""


@pytest.mark.parametrize(
    "text", ["fast", "100", "100 Mpbs", "0 Mbps", "-5 Mbps", "nan Mbps", "10 GHz"]
)
def test_bad_rates_are_refused(text: str) -> None:
    with pytest.raises(UnitError):
        units.rate(text)


def test_other_quantities() -> None:
    assert units.size("24GB").value == 24e9
    assert units.size("24 GiB").value == 24 * 2**30
    assert units.count("14.8T tokens").value == 14.8e12
    assert units.duration("6h").value == 21600
    assert units.duration("90 days").value == 90 * 86400
    assert units.duration("80ms").value == pytest.approx(0.08)
    assert units.fraction("60%").value == 0.6
    assert units.flops("165.2 TFLOPS").value == 165.2e12
    with pytest.raises(UnitError, match="bits"):
        units.size("24Gb")
    with pytest.raises(UnitError, match="between 0 and 100"):
        units.fraction("130%")


@given(st.floats(1e-3, 1e6), st.sampled_from(["kbps", "Mbit/s", "Gbps", "Tbit/s"]))
def test_a_shown_rate_is_read_back(number: float, unit: str) -> None:
    value = units.rate(f"{number!r} {unit}").value
    assert units.rate(units.show_rate(value)).value == pytest.approx(value, rel=6e-3)


def test_one_line_of_crowd() -> None:
    found = crowd.read(
        "5000x rtx4090 @ 20/100 Mbps 80ms, 60% online, 6h, 8 per site, lan 10 Gbps, 3% malicious"
    )
    (group,) = found.groups
    assert (group.count, group.up, group.down, group.latency) == (5000, 20e6, 100e6, 0.04)
    assert (group.online, group.stay, group.site, group.lan, group.waste) == (
        0.6,
        21600,
        8,
        10e9,
        0.03,
    )
    assert any("20 Mbit/s up" in note for note in found.notes)


def test_the_smaller_of_two_speeds_is_the_upload_unless_it_is_said() -> None:
    def ways(text: str) -> tuple[float, float]:
        (group,) = crowd.read(f"1x rtx4090 @ {text} 10ms").groups
        return group.up, group.down

    assert ways("100/20 Mbps") == (20e6, 100e6)
    assert ways("100 up/20 down Mbps") == (100e6, 20e6)
    assert ways("1Gbps/100Mbps") == (100e6, 1e9)
    assert ways("20/100 Mbit/s") == (20e6, 100e6)
    assert ways("12.5 MB/s") == (100e6, 100e6)


def test_speeds_without_a_unit_have_that_of_the_last_or_the_default() -> None:
    assert [r.value for _, r in units.speeds("20/100 Mbit/s")] == [20e6, 100e6]
    assert [r.value for _, r in units.speeds("10/50", "Mbit/s")] == [10e6, 50e6]
    assert [r.value for _, r in units.speeds("20Mbps/1 Gbit/s")] == [20e6, 1e9]
    assert [way for way, _ in units.speeds("100 down/20 up Mbps")] == ["down", "up"]
    with pytest.raises(units.UnitError, match="give one speed"):
        units.speeds("1/2/3 Mbps")


def test_the_time_at_the_end_of_a_link_is_no_speed() -> None:
    assert units.with_delay("20/100 Mbit/s 80 ms") == ("20/100 Mbitps ", "80 ms")
    assert units.with_delay("10/50")[1] == ""


def test_machines_with_several_cards_and_several_groups() -> None:
    found = crowd.read("20x 8x b200 @ 110/500 Mbps 40ms + 3x rtx3090 @ 5 Mbps 9 ms")
    assert [(g.count, g.cards) for g in found.groups] == [(20, 8), (3, 1)]
    assert found.groups[0].rate("bf16") == 8 * 2250e12


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10x rtx4091 @ 10 Mbps 10ms", "rtx4090"),
        ("10x rtx4090 @ 0 Mbps 10ms", "greater than zero"),
        ("10x rtx4090", "Write it like"),
        ("-5x rtx4090 @ 5 Mbps 10ms", "Write it like"),
        ("0x rtx4090 @ 5 Mbps 10ms", "greater than zero"),
        ("5x rtx4090 @ 5 Mbps 10ms, 140% online", "between 0 and 100"),
        ("5x rtx4090 @ 5 Mbps 10ms, 2 GB RAM", "operating system"),
        ("5x rtx4090 @ 5 Mbps 10ms, purple", "not understood"),
        ("", "nothing given"),
    ],
)
def test_a_bad_crowd_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises((PlanError, UnitError), match=hint):
        crowd.read(text)


def test_a_crowd_from_toml(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "crowd.toml"
    file.write_text(
        '[[group]]\ncount = 3\ndevice = "rtx4090"\nlink = "20/100 Mbit/s"\nlatency = "20 ms"\n'
        'online = "50%"\nstay = "2 days"\nhost = "64 GB"\n'
        '[[group]]\ncount = 1\nmemory = "40 GB"\nrate = "100 TFLOPS"\nup = "1 Gbps"\ndown = "1 Gbps"\n'
    )
    first, second = crowd.read(str(file)).groups
    assert (first.count, first.host, first.online) == (3, 64e9, 0.5)
    assert (second.device.memory, second.device.bf16) == (40e9, 100e12)
    file.write_text('[[group]]\ncount = 3\ndevice = "rtx4090"\nlinkspeed = "1 Gbps"\n')
    with pytest.raises(PlanError, match="linkspeed"):
        crowd.read(str(file))
    with pytest.raises(PlanError, match="cannot be read"):
        crowd.read(str(tmp_path / "none.toml"))
