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
    "ms": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0,
    "h": 3600.0, "hr": 3600.0, "hour": 3600.0, "d": 86400.0, "day": 86400.0,
    "w": 604800.0, "week": 604800.0, "month": 2629800.0, "mo": 2629800.0,
    "y": 31557600.0, "yr": 31557600.0, "year": 31557600.0,
}  # fmt: skip
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


def show(value: float, steps: tuple[tuple[float, str], ...]) -> str:
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}"
    factor, unit = steps[-1]
    return f"{value / factor:.3g} {unit}"


def show_rate(value: float) -> str:
    return show(
        value, ((1e12, "Tbit/s"), (1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"), (1, "bit/s"))
    )


def show_size(value: float) -> str:
    return show(
        value, ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
    )


def show_count(value: float) -> str:
    return show(
        value, ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"), (1, ""))
    ).strip()


def show_energy(kwh: float) -> str:
    return show(kwh * 1e3, ((1e12, "TWh"), (1e9, "GWh"), (1e6, "MWh"), (1e3, "kWh")))


def show_time(seconds: float) -> str:
    if math.isinf(seconds):
        return "never"
    steps = ((100 * 31557600.0, 31557600.0, "years"), (2 * 31557600.0, 31557600.0, "years"),
             (86400.0, 86400.0, "days"), (3600.0, 3600.0, "h"), (60.0, 60.0, "min"), (1.0, 1.0, "s"))  # fmt: skip
    for least, factor, unit in steps:
        if seconds >= least:
            number = seconds / factor
            return f"{number:,.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{seconds * 1e3:.3g} ms"
