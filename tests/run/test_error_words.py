"""An error is told with its cause and with what to do."""

import errno
import os
from pathlib import Path

import pytest
import torch

from duckweed.run.error_words import lost_device, out_of_memory, words

PLACE = Path("here")
FULL = os.strerror(errno.ENOSPC)


def test_a_full_disk_is_named_with_how_to_go_on():
    expected = "the disk of here is full. Nothing that counted is lost; make room, then go on"
    assert words(OSError(errno.ENOSPC, FULL, "x"), PLACE, "go on") == expected
    assert words(OSError(errno.ENOSPC, FULL, "x")).startswith("the disk of x is full. ")
    assert words(OSError(errno.ENOSPC, FULL)).startswith("the disk of this machine is full. ")
    measured = OSError(errno.ENOSPC, "3 MB free, 4 MB needed", "x")
    assert words(measured, PLACE).startswith("the disk of here is full: 3 MB free, 4 MB needed. ")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_an_allocation_that_failed_is_the_memory_of_this_machine(error):
    said = words(error, PLACE, "go on")
    assert "this machine ran out of memory" in said
    assert said.endswith("; then go on")


FAILED = "CUDA error: unspecified launch failure"


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(f"{FAILED}\nCUDA kernel errors might be reported later, so"),
        RuntimeError(f"{FAILED}\nCompile with TORCH_USE_CUDA_DSA"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_a_device_that_failed_is_told_in_one_line_with_what_to_do(error):
    said = words(error, PLACE, "go on")
    assert said.startswith(f"the device failed ({str(error).splitlines()[0]}), ")
    assert said.endswith("once the device answers again, go on")
    assert "\n" not in said
    assert lost_device(error)
    assert not out_of_memory(error)


def test_memory_of_a_device_that_ran_out_is_no_fault_of_it():
    for said in ("CUDA error: out of memory", "CUDA out of memory. Tried to allocate 2 GiB"):
        assert not lost_device(torch.AcceleratorError(said))
        assert out_of_memory(torch.AcceleratorError(said))
    assert not lost_device(ValueError(FAILED))


def test_other_errors_say_what_they_say_and_a_fault_of_ours_its_kind():
    assert words(RuntimeError("other")) == "other"
    assert words(ValueError()) == "ValueError"
    assert words(FileNotFoundError(errno.ENOENT, "No such file", "run.toml")) == (
        "run.toml: No such file"
    )
    assert words(OSError("broken")) == "broken"
    assert words(KeyError("steps")) == "KeyError: 'steps'"
