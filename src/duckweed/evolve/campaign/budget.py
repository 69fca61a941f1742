"""The budget of a campaign: machine time or FLOPs, never exceeded."""

import re

import msgspec

UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class BudgetError(ValueError):
    """A budget that cannot be read, or too small; the message says what is needed."""


class Budget(msgspec.Struct, frozen=True):
    """seconds: of this machine with all workers at work; or flops: of all runs together."""

    seconds: float | None = None
    flops: float | None = None

    @property
    def text(self) -> str:
        if self.flops is not None:
            return f"{self.flops:.3g} FLOP"
        return span(self.seconds or 0.0)


def parse(text: str) -> Budget:
    """ "2h", "90m", "45s", "1d", or "1e15flop". Raises BudgetError."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]+)\s*", text.lower())
    try:
        number = float(found.group(1)) if found else 0.0
    except ValueError:
        number = 0.0
    unit = found.group(2) if found else ""
    if not 0 < number < 1e30 or unit not in (*UNITS, "flop", "flops"):
        raise BudgetError(f"--budget {text}: expected a time such as 2h or 90m, or 1e15flop")
    return Budget(flops=number) if unit.startswith("flop") else Budget(number * UNITS[unit])


def span(seconds: float) -> str:
    """ "2 h 05 min", "3 min", "40 s"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
