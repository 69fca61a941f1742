"""`attacker.py INVITATION CREW NAME ROUNDS`: the product's own peer, which alters what it hands in.

All that are given the same folder CREW act together: for ROUNDS rounds by the same attack, then by the next one
(`LIES`). They see each other's work before they hand in, hide each other's cheats when they audit, and are honest
until their work has counted once. A peer that was put out comes back under a new key.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import msgspec
import numpy as np

from bench.hostile.attacks import ATTACKS
from bench.hostile.swarm import View
from duckweed import participation
from duckweed.library import home_of
from duckweed.merge.round import blob_hash
from duckweed.round.worker import Contribution, Trained, Worker
from duckweed.swarm.peer import join, peer, preparation
from duckweed.swarm.peer.auditor import Auditor
from duckweed.swarm.peer.evidence import Evidence
from duckweed.swarm.protocol import messages as m
from duckweed.wire.codec import codec_of
from duckweed.wire.codecs.integer import steps
from duckweed.wire.codecs.sums import values

CODES = [name for name, attack in ATTACKS.items() if not hasattr(attack, "trains")]
"""Attacks that alter the codes of a contribution, or the sizes announced with it."""
OTHERS = ["label-flip", "tokens", "loss", "verdicts", "unshown", "silent", "state"]
"""Training on other text; false tokens; false training and held-out loss; fault found in all honest peers as an
auditor; nothing shown to auditors; nothing handed in; another state's hash than the own."""
LIES = [*CODES, *OTHERS]
TOGETHER = 2.0  # seconds to wait for the others' work
CROWD = 4  # as many of the crew's works as are waited for
SILENCE = 2.0
BACK = 3.0  # seconds until a peer that was put out comes back
FORGOTTEN = 3  # rounds after which what the crew shared is removed


class Crew:
    """What the hostile peers share. lasts: rounds of each attack."""

    def __init__(self, folder: Path, name: str, lasts: int) -> None:
        self.folder, self.name, self.lasts = folder, name, lasts
        folder.mkdir(parents=True, exist_ok=True)

    def attack(self, round_: int) -> str:
        """All do the same in the same round."""
        return LIES[round_ // self.lasts % len(LIES)]

    def note(self, index: int, round_: int, attack: str) -> None:
        """What was done in a round, once for each round of a key; also for who reads the run afterwards."""
        line = {"peer": index, "round": round_, "attack": attack, "time": time.time()}
        with (self.folder / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def members(self) -> set[int]:
        """Indices of all keys that the crew has used."""
        return {line["peer"] for line in noted(self.folder)}

    def share(self, round_: int, codes: np.ndarray, sizes: list[float]) -> None:
        """Let the others see honest work."""
        part = self.folder / f".{self.name}.npz"
        np.savez(part, codes=codes, sizes=sizes)
        part.replace(self._path(round_))
        self._path(round_ - FORGOTTEN).unlink(missing_ok=True)

    def seen(self, round_: int) -> list[tuple[np.ndarray, list[float]]]:
        """What all have shared for a round, the own last."""
        own, found = self._path(round_), []
        for path in sorted(self.folder.glob(f"*-{round_:06d}.npz"), key=lambda x: x == own):
            with np.load(path) as arrays:
                found.append((arrays["codes"], arrays["sizes"].tolist()))
        return found

    def _path(self, round_: int) -> Path:
        return self.folder / f"{self.name}-{round_:06d}.npz"


def noted(folder: Path) -> Iterator[dict[str, Any]]:
    """All that a crew has noted."""
    for path in sorted(folder.glob("*.jsonl")):
        yield from map(json.loads, path.read_text().splitlines())


class HostileWorker(Worker):
    """Trains honestly, mostly, and alters what came of it."""

    crew: Crew
    counted = False  # whether the work of this key has counted

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.codec = codec_of(self.spec.wire, self.layout)
        self.past: deque[np.ndarray] = deque(maxlen=12)
        self.dice = np.random.default_rng()

    def attack(self, round_: int) -> str:
        return self.crew.attack(round_) if self.counted else ""

    def train(self, state: Any, *more: Any) -> Trained:
        if self.attack(state.round) != "label-flip":
            return super().train(state, *more)
        with self._other_text():
            return super().train(state, *more)

    @contextlib.contextmanager
    def _other_text(self) -> Iterator[None]:
        task = self.learner.task  # type: ignore[attr-defined]
        honest = task.dataset
        flipped = copy(honest)
        object.__setattr__(flipped, "train", honest.train.max() - honest.train)
        task.dataset = flipped
        try:
            yield
        finally:
            task.dataset = honest

    def compress(self, state: Any, index: int, trained: Trained) -> Contribution:
        made = super().compress(state, index, trained)
        honest = self.codec.decode(made.blob, state.shared).codes
        self.crew.share(state.round, honest, made.announcement.rms)
        attack = self.attack(state.round)
        self.crew.note(index, state.round, attack)
        if attack in CODES:
            codes, sizes = self._altered(state, attack)
            made = self._with(made, codes, sizes, state)
        elif attack == "tokens":
            made.announcement = msgspec.structs.replace(
                made.announcement, tokens=10 * made.announcement.tokens
            )
        elif attack == "loss":
            made.announcement = msgspec.structs.replace(made.announcement, loss=1e-6)
        self.past.append(honest)
        return made

    def _altered(self, state: Any, attack: str) -> tuple[np.ndarray, list[float]]:
        seen = self._seen(state.round)
        if len(seen) == 1:  # alone it knows no other than the simplest attack
            return -seen[0][0], seen[0][1]
        honest = np.stack([codes for codes, _ in seen])
        past = [x[None] for x in self.past]
        view = View(
            state.round, state, self.codec, honest, [sizes for _, sizes in seen], 1, past, None, {}, [],
            self.dice,
        )  # fmt: skip
        codes, sizes = ATTACKS[attack](view)
        return codes[0], sizes[0]

    def _seen(self, round_: int) -> list[tuple[np.ndarray, list[float]]]:
        closes, most = time.monotonic() + TOGETHER, 0
        while most < CROWD and time.monotonic() < closes:
            time.sleep(0.1)
            most = len(self.crew.seen(round_))
        return self.crew.seen(round_)

    def _with(
        self, made: Contribution, codes: np.ndarray, sizes: list[float], state: Any
    ) -> Contribution:
        x = values(codes, steps(self.spec.wire, state.shared, self.layout), self.layout)  # type: ignore[arg-type]
        made.blob = self.codec.encode(x, state.shared).blob
        made.announcement = msgspec.structs.replace(
            made.announcement, blob=blob_hash(made.blob), size=len(made.blob), rms=sizes
        )
        return made

    def evaluate(self, state: Any, share: int, shares: int) -> tuple[float, int]:
        nats, tokens = super().evaluate(state, share, shares)
        return (1e-6, tokens) if self.attack(state.round) == "loss" else (nats, tokens)


class HostilePeer(peer.Peer):
    """Is silent or lies about its state where the attack says so."""

    worker: HostileWorker

    async def _contribute(self, task: m.Train) -> None:
        if self.worker.attack(task.round) == "silent":
            self.worker.crew.note(self.index, task.round, "silent")
            await asyncio.sleep(SILENCE)
            return
        await super()._contribute(task)

    async def _what_now(self, question: m.Next) -> Any:
        if question.round and self.worker.attack(question.round) == "state":
            self.worker.crew.note(self.index, question.round, "state")
            question = msgspec.structs.replace(question, hash="f" * 64)
        return await super()._what_now(question)

    async def _apply(self, closed: Any) -> None:
        self.worker.counted |= self.index in closed.accepted
        await super()._apply(closed)


class Accomplice(Auditor):
    """Finds no fault in its own crew and, where the attack says so, fault in all others."""

    worker: HostileWorker

    async def _found(self, task: m.Audit, report: Any) -> tuple[bool, list[str], str]:
        if task.peer in self.worker.crew.members():
            return True, [], "the same codes"
        if self.worker.attack(task.round) == "verdicts":
            return True, ["31 % of the codes differ"], "compared codes"
        return await super()._found(task, report)


class Hiding(Evidence):
    """Shows nothing where the attack says so."""

    crew: Crew

    async def show(self, round_: int, wanted: Any) -> None:
        if self.crew.attack(round_) != "unshown":
            await super().show(round_, wanted)


def main() -> None:
    invitation, folder, name, lasts = sys.argv[1:]
    crew = Crew(Path(folder), name, int(lasts))
    HostileWorker.crew = Hiding.crew = crew
    preparation.Worker, join.Peer = HostileWorker, HostilePeer  # type: ignore[misc]
    peer.Auditor, peer.Evidence = Accomplice, Hiding  # type: ignore[misc]
    homes = crew.folder.parent / name
    number = max(0, len(list(homes.glob("*"))) - 1)  # begun again, it goes on
    ready = ""
    while True:
        home, limits = home_of(invitation, homes / str(number), None, {"model": False}, ())
        ready = ready or participation.ready(limits, "cpu")
        began = time.monotonic()
        try:
            reason = asyncio.run(participation.join(home, (), ready, say))
        except (OSError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {error}"
        say(f"key {number} ended after {time.monotonic() - began:.0f} s: {reason}")
        if reason.startswith((m.ALL_DONE, join.OVER)):
            return
        number += 1
        time.sleep(BACK)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    os.environ["OMP_WAIT_POLICY"] = "passive"
    main()
