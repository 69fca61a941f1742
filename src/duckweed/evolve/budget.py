"""The budget of a campaign: machine time or FLOPs, never exceeded."""

import msgspec

from duckweed.run import units
from duckweed.run.units import UnitError


class BudgetError(ValueError):
    """A budget that cannot be read, or too small; the message says what is needed."""


class Budget(msgspec.Struct, frozen=True):
    """One of the two."""

    seconds: float | None = None  # of this machine with all workers at work
    flops: float | None = None  # of all runs together

    @property
    def text(self) -> str:
        if self.flops is not None:
            return f"{self.flops:.3g} FLOP"
        return span(self.seconds or 0.0)


def parse(text: str) -> Budget:
    """ "2h", "90m", "45s", "1d", or "1e15flop". Raises BudgetError."""
    try:
        number, unit = units.split(text, "--budget")
        is_flops = unit.lower() in ("flop", "flops")
        # a lone m means minutes here
        unit = "min" if unit.lower() == "m" else unit
        value = number if is_flops else units.duration(f"{number}{unit}").value
    except UnitError:
        value, is_flops = 0.0, False
    if not 0 < value < 1e30:
        raise BudgetError(f"--budget {text}: expected a time such as 2h or 90m, or 1e15flop")
    return Budget(flops=value) if is_flops else Budget(value)


def span(seconds: float) -> str:
    """ "2 h 05 min", "3 min", "40 s"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
