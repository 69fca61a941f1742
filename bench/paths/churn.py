"""Half of a family's peers replaced within ten rounds, in virtual time: the loss against that of the calm family.

The common start is trained once. Then the paths are trained twice: by the same peers to the end, and with half of the
peers leaving, one each round, for newcomers who begin with the state of that moment and with nothing else: no residual
of the wire, no inner moments. A newcomer's fetching of that state takes no time here.
"""

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from duckweed import session
from duckweed.family import begin, harvest
from duckweed.family.folder import FamilyFolder
from duckweed.learn.fit import Machine
from duckweed.net.identity import load_or_create
from duckweed.net.link_spec import LinkSpec
from duckweed.process.simulation import SimulatedWorker, Simulation
from duckweed.round import founding
from duckweed.round.run_log import run_log
from duckweed.run import family as rules
from duckweed.run import state as states
from duckweed.run.folder import Destination
from duckweed.run.spec import RunSpec, override
from duckweed.run.state import State
from duckweed.swarm.protocol.errors import HandedBack

FIRST = 4  # rounds of a path after which the first of its peers leaves
STEP = 0.5  # seconds of an inner step
FACTS: dict[str, object] = {
    "model.source": "config.json", "model.sequence": 128, "data.limit": 4_000_000, "inner.batch": 2,
    "inner.steps": 10, "rounds.count": 20, "rounds.peers": 4, "rounds.evaluate": 100, "paths.common": 0.15,
    "rounds.patience": 30.0,
}  # fmt: skip
CONFIG = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": False,
}  # fmt: skip
CELLS = {"2 paths, 2 peers each": 2, "4 paths, 1 peer each": 4}


class Churn(Simulation):
    """A simulation in which some peers are replaced. leaving: peer -> the round after which it leaves."""

    leaving: dict[int, int]

    async def _take_part(self, n: int, key: Any, network: Any, to: str) -> State:
        after = self.leaving.get(n)
        first = asyncio.create_task(super()._take_part(n, key, network, to))
        if after is None:
            return await first
        mine: SimulatedWorker = self.workers[n]
        while max(mine.states) < after:
            await asyncio.sleep(STEP)
        asyncio.get_running_loop().set_exception_handler(_unless_handed_back)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        newcomer, common = len(self.workers), (mine.costs, mine.states, self._tell)
        self.workers.append(
            SimulatedWorker(self.spec, self.layout, mine.learner, newcomer, mine.pace, *common)
        )
        self.links = [*self.links, LinkSpec()]
        self.state = mine.states[max(mine.states)]
        own = load_or_create(self.folder.peer(newcomer) / "key")
        return await super()._take_part(newcomer, own, network, to)


def measured(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The record after each cell. found: what is measured already."""
    for name, paths in CELLS.items():
        if name in found:
            continue
        with tempfile.TemporaryDirectory() as place:
            found[name] = _compared(Path(place), paths)
        print(name, found[name], flush=True)
        yield found


def _compared(base: Path, paths: int) -> dict[str, Any]:
    (base / "config.json").write_text(json.dumps(CONFIG))
    spec = override(RunSpec(), FACTS | {"paths.count": paths})
    family = begin.found(
        spec, Destination(base, base / "runs", "calm"), Machine("cpu"), (), _quiet, _quiet
    )
    for _ in session.simulate(family.common, None, STEP):
        pass
    begin.branch(family, _quiet)
    shutil.copytree(family.folder.path, base / "runs" / "churn")
    hands = rules.deal(spec.rounds.peers, paths)
    out: dict[str, Any] = {"rounds": spec.rounds.count - rules.common_rounds(spec)}
    gone = 0
    for name in ("calm", "churn"):
        one = begin.reopen(FamilyFolder(base / "runs" / name), "cpu", 1)
        for path, hand in enumerate(hands):
            leaving = {0: FIRST + path} if name == "churn" and (len(hand) > 1 or path % 2) else {}
            gone += len(leaving)
            _train(one.of_path(path), leaving)
        figures = harvest.finish(one, _quiet)
        logs = [run_log(run) for run in one.folder.runs[1:]]
        out[name] = {
            "bits_per_byte": figures.bits[1],
            "paths": [path.bits[1] for path in figures.paths],
            "tokens": [sum(x.tokens for x in log.rounds) for log in logs],
            "peers": [log.peers for log in logs],
        }
    out["replaced"] = gone / spec.rounds.peers
    return out


def _train(run: session.Session, leaving: dict[int, int]) -> None:
    layout = founding.layout(run.folder)
    state = states.load(run.folder.start(False), layout)
    it = Churn(run.folder, run.spec, layout, run.ground, state, run.device, None, STEP)
    it.leaving = leaving
    it.run()


def _unless_handed_back(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The steps of a peer that has left are still reported when their time has come, and nobody is there to hear it."""
    if not isinstance(context.get("exception"), HandedBack):
        loop.default_exception_handler(context)


def _quiet(text: str) -> None:
    pass
