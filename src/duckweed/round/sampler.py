"""What a model in training writes: tried out beside the run now and then, by a thread of low priority."""

import contextlib
import logging
import os
import sys
import threading
import time
from contextlib import closing

import psutil
import torch

from duckweed.learn.device import seeded
from duckweed.learn.model import model as models
from duckweed.learn.model.generation import drawn
from duckweed.ledger.entries import RoundEntry
from duckweed.ledger.ledger import Ledger, LedgerError
from duckweed.merge.round import MergeError
from duckweed.net.timeouts import SAMPLER_CHECK
from duckweed.round import founding
from duckweed.round.engine import Engine, FolderBlobs
from duckweed.round.founding import Ground
from duckweed.run import state as states
from duckweed.run.events import Sampled
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec
from duckweed.run.state import State, StateError

log = logging.getLogger(__name__)

TOKENS = 160  # of a text
TEXTS = 20  # over a whole run, about
REST = 10  # times as long as a text took, until the next
SHARE = 0.25  # of the memory that is free, at most


class Sampler(threading.Thread):
    """Lets the model write from nothing, with the run's seed, every few rounds; the texts go into
    metrics.jsonl. The states follow from the ledger and the blobs in the folder, so it asks nobody. It ends with the run's
    last round."""

    def __init__(self, folder: RunFolder, spec: RunSpec, ground: Ground, count: int = 1) -> None:
        """count: of the models that write on this machine; each rests for all of them."""
        super().__init__(name="sampler", daemon=True)
        self._rest = REST * count
        self.folder, self.spec, self.ground = folder, spec, ground
        self.layout = founding.layout(folder)
        self._engine = Engine(spec, self.layout, FolderBlobs(folder))
        self._state: State | None = None
        self._wake, self._ending = threading.Event(), False
        self._written = {x.round for x in folder.records(Sampled)}

    @staticmethod
    def fits(parameters: int) -> bool:
        """Whether there is room for the model, its weights and its momentum beside the run."""
        return 3 * 4 * parameters <= SHARE * psutil.virtual_memory().available

    def news(self) -> None:
        """A round has closed."""
        self._wake.set()

    def end(self, seconds: float) -> None:
        """Write a last text, if that is done within so many seconds."""
        self._ending = True
        self._wake.set()
        self.join(seconds)

    def run(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)
        every = max(1, self.spec.schedule.rounds // TEXTS)
        try:
            while True:
                closed, began = self._closed(), time.monotonic()
                ending = self._ending or closed == self.spec.schedule.rounds
                last = max(self._written, default=-every)
                if closed >= last + (1 if ending else every):
                    self.write()
                if ending:
                    return
                woke = time.monotonic()
                self._wake.wait()
                self._wake.clear()
                # The first one also loads what writes, so it says nothing of the next.
                self._pause(self._rest * (woke - began) if len(self._written) > 1 else 0.0)
        except (LedgerError, StateError, MergeError, OSError, RuntimeError, ValueError) as error:
            log.warning("no more texts of the model: %s", error)
        finally:
            self._state = None

    def _pause(self, seconds: float) -> None:
        closes = time.monotonic() + seconds
        while not self._ending and time.monotonic() < closes:
            time.sleep(SAMPLER_CHECK)

    def _closed(self) -> int:
        with closing(Ledger(self.folder.ledger)) as ledger:
            return ledger.closed_rounds()

    def write(self) -> None:
        """A text by the newest state, into metrics.jsonl."""
        state = self._latest()
        if state.round in self._written:
            return
        text = self._text(state)
        self.folder.record(Sampled(state.round, text))
        self._written.add(state.round)

    def _latest(self) -> State:
        saved = self.folder.saved_rounds()[-1]
        if self._state is None or saved > self._state.round:
            self._state = states.load(self.folder.state(saved), self.layout)
        with closing(Ledger(self.folder.ledger)) as ledger:
            rounds = [x.body.closed for x in ledger.entries(RoundEntry)]
        self._state = self._engine.replay(self._state, rounds)
        return self._state

    def _text(self, state: State) -> str:
        model = founding.model(self.spec, self.ground)
        models.write_weights(model, state.weights)
        return written(model.eval(), self.ground, self.spec.seed)


def written(model: torch.nn.Module, ground: Ground, seed: int) -> str:
    """What a model writes after the end of a text, that is from nothing. The same weights and the same
    seed give the same text."""
    tokenizer = ground.dataset.tokenizer
    config = model.config
    most = getattr(config, "max_position_embeddings", None) or TOKENS + 1
    start = torch.tensor([[tokenizer.end]])
    with seeded(seed, "cpu"):
        out = drawn(
            model, start, min(TOKENS, most - 1), 0.7, tokenizer.end, eos_token_id=tokenizer.end
        )
    return tokenizer.decode(out[0].tolist())
