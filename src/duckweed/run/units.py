"""Reading what people write: `100 Mbps`, `24GB`, `14.8T`, `80 ms`, `60%`, and saying how it was read.

Rates are in bit/s, sizes in bytes, times in seconds, compute in FLOP/s. Decimal prefixes are powers
of 1000 and `Ki`, `Mi`, `Gi`, `Ti` powers of 1024; a lone `b` is a bit and a `B` is a byte. A form
that could mean two things is read one way, and `Reading.said` tells which.
"""

import math
import re
from dataclasses import dataclass

PREFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15, "e": 1e18}
BINARY = {"ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30, "ti": 2.0**40}
SECONDS = {
    name: seconds
    for names, seconds in (
        ("ms", 1e-3),
        ("s sec second", 1.0),
        ("min minute", 60.0),
        ("h hr hour", 3600.0),
        ("d day", 86400.0),
        ("w week", 604800.0),
        ("mo month", 2629800.0),
        ("y yr year", 31557600.0),
    )
    for name in names.split()
}
NUMBER = re.compile(r"^\s*([-+]?(?:\d[\d,_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*$")


class UnitError(ValueError):
    """The text is not a quantity of that kind; the message says how to write it."""


@dataclass(frozen=True)
class Reading:
    """A number in base units and, where the writing left a choice, how it was read."""

    value: float
    said: str = ""


def split(text: str, what: str) -> tuple[float, str]:
    """The number and the unit behind it. Raises UnitError if there is no number."""
    match = NUMBER.match(str(text))
    if not match:
        raise UnitError(f"{what}: {text!r} does not begin with a number.")
    number = float(match[1].replace(",", "").replace("_", ""))
    if not math.isfinite(number):
        raise UnitError(f"{what}: {text!r} is not a finite number.")
    return number, match[2]


def positive(value: float, text: object, what: str) -> float:
    if not value > 0:
        raise UnitError(f"{what}: {text!r} must be greater than zero.")
    return value


def scale(prefix: str, text: object, what: str, forms: str) -> float:
    key = prefix.lower()
    if key in BINARY:
        return BINARY[key]
    if key in PREFIX:
        return PREFIX[key]
    raise UnitError(f"{what}: the unit in {text!r} is not known. Write it like {forms}.")


def rate(text: str | float, what: str = "link speed") -> Reading:
    """bit/s from `100 Mbps`, `100Mbit/s`, `12.5 MB/s`, `1 Gbps`, `100Mb`, `100MB`."""
    number, unit = split(str(text), what)
    positive(number, text, what)
    forms = "100 Mbit/s (bits) or 12.5 MB/s (bytes)"
    match = re.fullmatch(r"([kKmMgGtT]?i?)(bits?|Bits?|bytes?|Bytes?|b|B)(ps|/s|/sec|)", unit)
    if match:
        letter = match[2]
        byte = letter.lower().startswith("byte") or letter == "B"
        value = number * scale(match[1], text, what, forms) * (8 if byte else 1)
        written_out = letter.lower().rstrip("s") in ("bit", "byte")
        said = ""
        if byte and not written_out and match[3] == "ps":
            said = f"{what} {str(text).strip()}: B is a byte, so {show_rate(value)}"
        elif not match[3]:
            kind = "bytes (B)" if byte else "bits (b)"
            said = f"{what} {str(text).strip()}: read as {kind} per second, {show_rate(value)}"
        return Reading(value, said)
    short = re.fullmatch(r"([kKmMgGtT])", unit)
    if short:
        value = number * scale(short[1], text, what, forms)
        return Reading(value, f"{what} {str(text).strip()}: read as {show_rate(value)}")
    if not unit and isinstance(text, (int, float)):
        return Reading(number)
    raise UnitError(f"{what}: the unit in {text!r} is not known. Write it like {forms}.")


def size(text: str | float, what: str = "memory") -> Reading:
    """Bytes from `24GB`, `24 GiB`, `24G`, `512 MB`. Bits are refused: memory is sold in bytes."""
    number, unit = split(str(text), what)
    positive(number, text, what)
    match = re.fullmatch(r"([kKmMgGtT]i?)(B|b|bytes?|)", unit)
    if not match:
        if not unit and isinstance(text, (int, float)):
            return Reading(number)
        raise UnitError(
            f"{what}: the unit in {text!r} is not known. Write it like 24 GB or 24 GiB."
        )
    if match[2] == "b":
        raise UnitError(
            f"{what}: {text!r} says bits (b). Write {number:g} {match[1].upper()}B for bytes."
        )
    value = number * scale(match[1], text, what, "24 GB")
    said = "" if match[2] else f"{what} {str(text).strip()}: read as {value / 1e9:g} GB"
    return Reading(value, said)


def count(text: str | float, what: str = "number") -> Reading:
    """A plain number with K, M, B (1e9), G or T behind it: `14.8T` tokens, `72.7B` parameters."""
    number, unit = split(str(text), what)
    positive(number, text, what)
    unit = re.sub(r"\s*(tokens?|params?|parameters?)$", "", unit, flags=re.IGNORECASE)
    factors = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
    if unit.lower() not in factors:
        raise UnitError(f"{what}: the ending of {text!r} is not known. Use K, M, B or T: 14.8T.")
    return Reading(number * factors[unit.lower()])


def duration(text: str | float, what: str = "time") -> Reading:
    """Seconds from `80ms`, `6h`, `90 days`, `2 weeks`, `1 year`. A month is 30.44 days."""
    number, unit = split(str(text), what)
    if number < 0:
        raise UnitError(f"{what}: {text!r} is negative.")
    key = unit.lower()
    if key not in SECONDS and key.endswith("s"):
        key = key[:-1]
    if key in SECONDS:
        return Reading(number * SECONDS[key])
    if not unit and isinstance(text, (int, float)):
        return Reading(number)
    raise UnitError(
        f"{what}: the unit in {text!r} is not known. Write it like 80 ms, 6 h or 90 days."
    )


def fraction(text: str | float, what: str = "share") -> Reading:
    """A share between 0 and 1 from `60%` or `0.6`."""
    number, unit = split(str(text), what)
    if unit == "%":
        number /= 100
    elif unit:
        raise UnitError(f"{what}: the unit in {text!r} is not known. Write it like 60% or 0.6.")
    if not 0 <= number <= 1:
        raise UnitError(f"{what}: {text!r} is not between 0 and 100 %.")
    return Reading(number)


def flops(text: str | float, what: str = "compute") -> Reading:
    """FLOP/s from `165 TF`, `165.2 TFLOPS`, `1 PFLOP/s`."""
    number, unit = split(str(text), what)
    positive(number, text, what)
    match = re.fullmatch(r"([gGtTpP])[fF](?:lops?|LOPS?|LOP)?(?:/s)?", unit)
    if match:
        return Reading(number * PREFIX[match[1].lower()])
    if not unit and isinstance(text, (int, float)):
        return Reading(number)
    raise UnitError(f"{what}: the unit in {text!r} is not known. Write it like 165 TFLOPS.")


def speeds(text: str, default: str = "") -> list[tuple[str, Reading]]:
    """One or two link speeds from `100 Mbps`, `20/100 Mbps`, `20 up/100 down Mbps`, `20Mbps/1Gbps`,
    each with `up`, `down` or nothing. A number without a unit has that of the last, or the default.
    """
    parts = [part.strip() for part in _per_second(text).split("/") if part.strip()]
    ways = []
    for part in parts:
        way = re.search(r"\b(up|down)(load)?\b", part, re.IGNORECASE)
        bare = re.sub(r"\b(up|down)(load)?\b", "", part, flags=re.IGNORECASE).strip()
        ways.append((way[1].lower() if way else "", *split(bare, "link speed")))
    if not 1 <= len(ways) <= 2:
        raise UnitError(f"Link {text!r}: give one speed, or up and down as in 20/100 Mbit/s.")
    last = ways[-1][2] or default
    return [(way, rate(f"{number:g} {unit or last}")) for way, number, unit in ways]


def with_delay(text: str) -> tuple[str, str]:
    """`20/100 Mbps 80ms` as the speeds and the time at the end, which may be empty."""
    text = _per_second(text)
    found = re.search(r"[\d.]+\s*(?:ms|s|sec)\s*$", text)
    return (text[: found.start()], found[0].strip()) if found else (text, "")


def _per_second(text: str) -> str:
    """`Mbit/s` as `Mbitps`, whose slash separates nothing."""
    return re.sub(r"(bits?|Bits?|bytes?|Bytes?|B|b)/s(ec)?\b", r"\1ps", text)


Steps = tuple[tuple[float, float, str], ...]
"""From which value on, divided by what, in which unit a quantity is said; the largest first."""


def step(value: float, steps: Steps) -> tuple[float, str]:
    """Divisor and unit for a value: those of the first step that it reaches, else of the last."""
    return next((s[1:] for s in steps if abs(value) >= s[0]), steps[-1][1:])


def number(value: float) -> str:
    """A time as a person says it: whole from 10 on."""
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def show(value: float, steps: Steps) -> str:
    """A time in the unit that fits it."""
    factor, unit = step(value, steps)
    return f"{number(value / factor)} {unit}"


def _scaled(value: float, unit: str, prefixes: str) -> str:
    """Three significant digits with the decimal prefix that fits, of those given, the largest first
    and the last for 1."""
    powers = range(3 * (len(prefixes) - 1), -1, -3)
    steps = tuple(
        (10.0**p, 10.0**p, c.strip() + unit) for p, c in zip(powers, prefixes, strict=True)
    )
    factor, unit = step(value, steps)
    return f"{value / factor:.3g} {unit}".strip()


def show_rate(value: float) -> str:
    """bit/s."""
    return _scaled(value, "bit/s", "TGMk ")


def show_size(value: float) -> str:
    """Bytes."""
    return _scaled(value, "B", "PTGMk ")


def show_count(value: float) -> str:
    return _scaled(value, "", "PTBMK ")


def show_energy(kwh: float) -> str:
    return _scaled(kwh, "Wh", "TGMk")


def show_clock(seconds: float) -> str:
    """A time that runs: m:ss or h:mm:ss."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


YEAR = SECONDS["year"]
TIMES: Steps = (
    (2 * YEAR, YEAR, "years"),
    (86400.0, 86400.0, "days"),
    (3600.0, 3600.0, "h"),
    (60.0, 60.0, "min"),
    (1.0, 1.0, "s"),
)


def show_time(seconds: float) -> str:
    """A duration."""
    if math.isinf(seconds):
        return "never"
    return show(seconds, TIMES) if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
