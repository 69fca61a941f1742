"""Which device to train on, in which precision, and its random numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

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


def precision_for(device: str, wanted: str) -> torch.dtype:
    """The dtype of autocast: bf16 where the machine multiplies it in hardware, else float32."""
    if wanted == "fp32" or device == "mps":
        return torch.float32
    if wanted == "bf16":
        return torch.bfloat16
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Without AMX a CPU emulates bf16, ten times slower than float32.
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Inside, torch draws from `seed`, on the CPU and on `device`; afterwards its generators on the CPU
    and on CUDA stand where they stood, so that a program around this one draws what it would have."""
    cuda = device.startswith("cuda")
    with torch.random.fork_rng([torch.device(device)] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device == "mps":
            torch.mps.manual_seed(seed)
        yield
