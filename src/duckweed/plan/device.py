"""The catalogue of devices: memory, dense rate with fp32 accumulation, power, price, rent."""

from dataclasses import dataclass

from duckweed.plan.errors import PlanError, unknown
from duckweed.plan.inputs import table


@dataclass(frozen=True)
class Device:
    """memory: bytes; bf16, fp8: dense FLOP/s with fp32 accumulation (fp8 0: none); bandwidth: byte/s
    of its memory; price: US dollars; watts; rent: US dollars an hour; unified: the processor's
    memory is this memory."""

    name: str
    label: str
    kind: str
    memory: float
    bf16: float
    fp8: float
    bandwidth: float
    price: float
    watts: float
    rent: float
    source: str

    @property
    def unified(self) -> bool:
        return self.kind in ("apple", "cpu")

    def rate(self, precision: str) -> float:
        """Dense FLOP/s for a training precision. fp8 matters only where the device has it; fp4 is
        kept for memory, computed as fp8 at most; fp32 is half of bf16."""
        if precision == "fp32":
            return self.bf16 / 2 if self.kind not in ("cpu", "apple") else self.bf16
        if precision in ("fp8", "fp4") and self.fp8:
            return self.fp8
        return self.bf16


def names() -> list[str]:
    return [row["name"] for row in table.rows("devices")]


def number(text: str) -> float:
    return float(text) if text else 0.0


def find(name: str) -> Device:
    """The device of that name; spaces, dashes and capitals do not matter. Raises PlanError."""
    key = "".join(c for c in name.lower() if c.isalnum())
    for row in table.rows("devices"):
        forms = (row["name"], row["label"], f"geforce{row['name']}", f"nvidia{row['name']}")
        if key in ("".join(c for c in form.lower() if c.isalnum()) for form in forms):
            return Device(
                row["name"],
                row["label"],
                row["kind"],
                number(row["memory_gb"]) * 1e9,
                number(row["bf16_tflops"]) * 1e12,
                number(row["fp8_tflops"]) * 1e12,
                number(row["bandwidth_gbs"]) * 1e9,
                number(row["price_usd"]),
                number(row["watts"]),
                number(row["rent_usd_hour"]),
                row["source"],
            )
    raise unknown("device", name, names())


def by_hand(memory: float, rate: float, kind: str = "consumer", name: str = "by hand") -> Device:
    """A device that is in no table. memory: bytes; rate: dense bf16 FLOP/s."""
    kinds = ("consumer", "workstation", "data-centre", "apple", "cpu")
    if kind not in kinds:
        raise PlanError(f"Device kind {kind!r}: choose one of {', '.join(kinds)}.")
    return Device(name, name, kind, memory, rate, 0.0, 0.0, 0.0, 0.0, 0.0, "given by hand")
