"""The rewards that peers claim, checked again before a contribution counts: by a process of its own, off the
event loop, since what checks answers may hang, and knows modules that a coordinator does without.

`Rewards` asks; duckweed.learn.tasks.rewards is the other end.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec
from msgspec import UNSET

from duckweed.ledger.entries import Writing
from duckweed.merge.announcement import Announcement
from duckweed.net.timeouts import REWARDS_ANSWER
from duckweed.run import plugins
from duckweed.run.folder import RunFolder
from duckweed.run.task.helper import Helper, HelperFailed, HelperFault
from duckweed.run.task.written import Written

log = logging.getLogger(__name__)
OTHER_END = "duckweed.learn.tasks.rewards"
NEAR = 1e-6  # between two losses that are the same


class Rewards:
    """What checks the rollouts of contributions. say: takes what the user of this machine should know."""

    def __init__(self, folder: RunFolder, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say
        begin = {"folder": str(folder.path.resolve()), "plugins": plugins.loaded()}
        self._helper = Helper(OTHER_END, begin)
        self._turn = asyncio.Lock()
        self._writers_turn = asyncio.Lock()  # so that a contribution waits for one of them at most
        self._unable = ""

    async def begin(self) -> None:
        """Begin the process while peers train: the first contribution must not wait for imports."""
        async with self._turn:
            await self._begun()

    async def _begun(self) -> bool:
        """Whether the process is there; if it cannot be, no reward of this run is checked here."""
        if not self._unable:
            try:
                await asyncio.to_thread(self._helper.begin)
            except HelperFault as error:
                self._unable = str(error)
                self.say(
                    f"the rewards of peers are believed, since they cannot be checked: {error}"
                )
        return not self._unable

    async def check(self, said: Announcement | Writing, told: Written) -> tuple[str, Written]:
        """Why a contribution cannot count, "" if it can, and what its rollouts add up to; their blob is on disk.
        told: what its peer says that they do. Where this machine cannot check anything, that is believed."""
        if isinstance(said, Writing):
            async with self._writers_turn:
                return await self._check(said, told)
        return await self._check(said, told)

    async def _check(self, said: Announcement | Writing, told: Written) -> tuple[str, Written]:
        async with self._turn:  # one at a time: there is one process
            if not await self._begun():
                return "", told
            try:
                found = await asyncio.to_thread(self._ask, said, told)
            except HelperFault as error:  # no problem could be made: no fault of the peer
                self.say(
                    f"round {said.round}: the rewards of peer {said.peer} are believed: {error}"
                )
                return "", told
            except HelperFailed as error:
                return f"its rewards could not be checked: {error}", told
        if "wrong" in found:
            return str(found["wrong"]), told
        written = msgspec.convert(found["written"], Written)
        return _misstated(said, told, written), written

    def _ask(self, said: Announcement | Writing, told: Written) -> dict[str, object]:
        """Raises HelperFault, HelperFailed."""
        assert said.rollouts is not UNSET
        question = {
            "blob": str(self.folder.blob(said.rollouts).resolve()),
            "block": said.block, "first": said.first, "steps": said.steps,
            "said": msgspec.to_builtins(told),
        }  # fmt: skip
        found: dict[str, object] = self._helper.ask(question, REWARDS_ANSWER)
        return found

    def close(self) -> None:
        self._helper.close()


def _misstated(said: Announcement | Writing, told: Written, written: Written) -> str:
    """What is wrong with the tokens, the loss and the sums that a peer says; "" if nothing is."""
    if said.tokens != written.tokens:
        return f"{said.tokens:,} tokens claimed, {written.tokens:,} written"
    loss = 1 - written.reward / max(1, written.answers)
    if abs(said.loss - loss) > NEAR:
        return f"{said.loss:.4f} of the reward missed as claimed, {loss:.4f} as written"
    for name in msgspec.structs.asdict(written):
        claimed, found = getattr(told, name), getattr(written, name)
        if abs(claimed - found) > NEAR * max(1, abs(found)):
            return f"{name} {claimed:,} claimed, {found:,} written"
    return ""
