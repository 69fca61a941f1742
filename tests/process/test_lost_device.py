"""A device that fails under a peer, as after a reset of its driver: that peer ends, and the run does not."""

import pytest
from fixtures import commands, tiny

from duckweed.ledger.entries import RoundEntry
from duckweed.ledger.ledger import Ledger
from duckweed.run import toml

# Stands for a card: the first process that makes its fourth step loses it, with the error that PyTorch raises then.
FAILING = """
from pathlib import Path

import torch

from duckweed.learn.optim.adamw import AdamW
from duckweed.learn.optim.registry import register_optimizer


class Failing(AdamW):
    def step(self, rate, number):
        if number == 3:
            try:
                Path("failed").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                raise torch.AcceleratorError(
                    "CUDA error: unspecified launch failure\\nCUDA kernel errors might be reported later"
                )
        super().step(rate, number)


register_optimizer("failing", Failing)
"""


@pytest.mark.slow
def test_a_peer_whose_device_fails_says_so_in_one_line_and_the_others_train_its_block(tmp_path):
    changes = {
        "inner.optimizer": "adamw",
        "rounds.count": 3,
        "inner.steps": 3,
        "rounds.patience": 60.0,
    }
    text = toml.write(tiny.specification(tmp_path, changes))
    (tmp_path / "run.toml").write_text(text.replace('"adamw"', '"failing"'))
    (tmp_path / "failing.py").write_text(FAILING)
    done = commands.run(
        ["train", "run.toml", "--plugin", "failing.py", "--runs", "runs", "--name", "one"], tmp_path
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "the device failed (CUDA error: unspecified launch failure)" in " ".join(said.split())
    assert "CUDA kernel errors might" not in said
    ledger = Ledger(tmp_path / "runs" / "one" / "ledger.db")
    rounds = [entry.body for entry in ledger.entries(RoundEntry)]
    ledger.close()
    assert len(rounds) == 3
    blocks = [one.blocks[peer] for one in rounds for peer in one.closed.accepted]
    assert sorted(blocks) == list(range(len(blocks)))  # the block that was lost is trained, too
