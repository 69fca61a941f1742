"""What every contestant but duckweed trains with, in its own environment: torch, transformers and numpy, no more.

The model, the windows and the evaluation come from the folder that `bench.rivals.work` wrote. What a process has to
say (a step done, an exchange, an end) it appends to a file of its own, a line of JSON each."""

import json
import math
import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

WARMUP, FINAL, DECAY, CLIP = 40, 0.1, 0.3, 1.0  # as duckweed's defaults
RATES = {"muon": 0.01, "adamw": 0.004}
WEIGHT_DECAY = 0.1


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon for hidden matrices and AdamW for the rest, as one optimizer; Muon's steps are as long as
    duckweed's are (`match_rms_adamw`)."""

    def __init__(self, model: torch.nn.Module, rate: float) -> None:
        matrices = [
            p for name, p in model.named_parameters()
            if p.ndim == 2 and "embed" not in name and "lm_head" not in name
        ]  # fmt: skip
        taken = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in taken]
        super().__init__([{"params": matrices}, {"params": rest}], {"lr": rate})
        self.parts = [
            torch.optim.Muon(
                matrices, lr=rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
            ),
            adamw(rest, rate),
        ]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part, group in zip(self.parts, self.param_groups, strict=True):
            for own in part.param_groups:
                own["lr"] = group["lr"]
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {str(number): part.state_dict() for number, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for number, part in enumerate(self.parts):
            part.load_state_dict(state[str(number)])


def adamw(parameters: Iterable[torch.nn.Parameter], rate: float) -> torch.optim.AdamW:
    decayed = list(parameters)
    groups = [
        {"params": [p for p in decayed if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in decayed if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))


class Training:
    """One peer's model, windows and optimizer. name: of the process; index: which peer's windows it trains on;
    fault: "", "nan" or "x1000": what becomes of its gradients from the second third of the run on."""

    def __init__(self, work: Path, index: int, optimizer: str, log: Path, fault: str = "") -> None:
        torch.set_num_threads(1)
        facts = json.loads((work / "work.json").read_text())
        self.steps, self.fault = facts["steps"], fault
        self.rate = float(os.environ.get("RIVALS_RATE") or RATES[optimizer])
        self.step = 0  # the one being trained
        self.windows = np.load(work / "tokens.npy", mmap_mode="r")[index]
        self.held_out = np.load(work / "held_out.npy")
        self.model = AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float32)
        self.model.train()
        self.optimizer: torch.optim.Optimizer
        if optimizer == "muon":
            self.optimizer = MuonAdamW(self.model, self.rate)
        else:
            self.optimizer = adamw(self.model.parameters(), self.rate)
        self.log = log
        self.said("begun")

    def said(self, what: str, **more: Any) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        line = {"what": what, "at": time.time(), "peak_mb": peak, "cpu": time.process_time()} | more
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def loss(self, windows: np.ndarray, model: torch.nn.Module | None = None) -> torch.Tensor:
        """Mean nats per token of u16[sequences, length + 1]."""
        tokens = torch.from_numpy(windows.astype(np.int64))
        logits = (model or self.model)(input_ids=tokens[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def gradient(self, step: int, model: torch.nn.Module | None = None) -> float:
        """Backward of one step's batch; the gradients are not clipped yet."""
        self.step = step
        loss = self.loss(self.windows[step % len(self.windows)], model)
        loss.backward()
        return loss.item()

    @property
    def poison(self) -> float:
        """What this peer's gradients, or its changes, are multiplied by before they are exchanged."""
        spoilt = self.fault and self.step >= self.steps // 3
        return {"nan": math.nan, "x1000": 1000.0}[self.fault] if spoilt else 1.0

    def update(self) -> None:
        """Clip, set the rate, step, clear."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.rate, min(self.step, self.steps), self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def spoil(self, before: list[torch.Tensor]) -> None:
        """Multiply what has changed since `before` by the poison."""
        if self.poison != 1:
            with torch.no_grad():
                for p, old in zip(self.model.parameters(), before, strict=True):
                    p.copy_(old + (p - old) * self.poison)

    def copies(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]

    def evaluate(self) -> float:
        """Held-out bits per token, which is a byte."""
        self.model.eval()
        with torch.no_grad():
            parts = np.array_split(self.held_out, max(1, len(self.held_out) // 16))
            nats = sum(self.loss(part).item() * len(part) for part in parts)
        return nats / len(self.held_out) / math.log(2)

    def end(self, **more: Any) -> None:
        self.said("ended", bits_per_byte=self.evaluate(), **more)


def rate_at(peak: float, step: int, steps: int) -> float:
    """Warm-up, constant, and linearly to a tenth over the last 30 %: duckweed's schedule of the same run."""
    if step < (warmup := min(WARMUP, steps // 10)):
        return peak * (step + 1) / warmup
    start = steps * (1 - DECAY)
    return peak * (1 - (1 - FINAL) * max(0.0, (step - start) / max(1.0, steps - start)))


def asked() -> tuple[Path, int, Path, str, dict[str, str]]:
    """Work, index, log, fault and the rest, from the environment, where the bench puts them."""
    given = {k[7:].lower(): v for k, v in os.environ.items() if k.startswith("RIVALS_")}
    index = int(given["index"])
    return Path(given["work"]), index, Path(given["log"]), given.get("fault", ""), given
