"""The work that all contestants do, written to a folder: windows, held-out text, model and first weights.

It is that of `make demo`: duckweed's own text, windows and first weights, in files that need nothing of duckweed to
be read, so that each contestant trains on the same tokens in the same order."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duckweed.learn.learner import Part
from duckweed.learn.tasks.text import TOKENS, NextToken
from duckweed.round import founding
from duckweed.run.spec import RunSpec, override

PEERS = 4
HELD_OUT = 32_768  # tokens, evenly spread


def specification(steps: int, batch: int) -> RunSpec:
    """That of `make demo`, with so many steps of each peer, each of so many sequences."""
    changes: dict[str, Any] = {"rounds.count": 1, "rounds.peers": PEERS, "inner.steps": steps}
    return override(RunSpec(), changes | {"inner.batch": batch})


def write(place: Path, steps: int, batch: int) -> None:
    """tokens.npy: u16[peers, steps, batch, 129]; held_out.npy: u16[sequences, 129]; model/: configuration and
    weights, as transformers reads them; work.json: what the schedule of the learning rate needs."""
    place.mkdir(parents=True, exist_ok=True)
    spec = specification(steps, batch)
    ground = founding.prepare(spec, Path(), lambda text: None)
    model, task = founding.first_model(spec, ground), NextToken(spec, ground.dataset)
    windows = [
        [one[TOKENS] for one in task.batches(Part(0, peer * steps, steps), model)]
        for peer in range(PEERS)
    ]
    held_out = np.concatenate([one[TOKENS] for one in task.held_out(HELD_OUT, 8)])
    np.save(place / "tokens.npy", np.array(windows, np.uint16))
    np.save(place / "held_out.npy", held_out.astype(np.uint16))
    model.save_pretrained(place / "model")  # type: ignore[operator]
    parameters = sum(p.numel() for p in model.parameters())
    torch.manual_seed(0)
    facts = {"steps": steps, "batch": batch, "peers": PEERS, "parameters": parameters}
    (place / "work.json").write_text(json.dumps(facts))
