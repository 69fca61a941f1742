"""Which device to train on."""

import torch


class DeviceError(ValueError):
    """This machine does not have the device that was asked for."""


def choose(wanted: str) -> str:
    """ "auto" picks cuda, then mps, then cpu; anything else is checked. Raises DeviceError."""
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    if wanted == "auto":
        return there[0]
    kind, _, number = wanted.partition(":")
    if kind not in there:
        raise DeviceError(
            f"device {wanted!r} is not on this machine, which has: {', '.join(there)}"
        )
    if kind == "cuda" and number and not 0 <= int(number) < torch.cuda.device_count():
        raise DeviceError(
            f"device {wanted!r}: this machine has {torch.cuda.device_count()} of them"
        )
    return wanted
