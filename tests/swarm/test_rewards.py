"""A coordinator that cannot check rewards says so, and the run goes on."""

import asyncio

from duckweed.ledger.entries import Writing
from duckweed.merge.announcement import Announcement
from duckweed.run import folder as folders
from duckweed.run.task.written import Written
from duckweed.swarm.coordinator.rewards import Rewards

SAID = Announcement(0, 1, 7, "ab" * 32, 100, 512, 4, 0.5, [0.5], rollouts="cd" * 32)


def test_where_the_problems_are_not_here_rewards_are_believed_and_that_is_said_once(tmp_path):
    told, said = Written(answers=8, tokens=512), []

    async def checks():
        rewards = Rewards(folders.create(tmp_path, "run"), said.append)
        try:
            return [await rewards.check(SAID, told) for _ in range(2)]
        finally:
            rewards.close()

    assert asyncio.run(checks()) == [("", told)] * 2
    (text,) = said
    assert "the rewards of peers are believed" in text
    assert "does not say where the problems of the run are" in text


class Noting(Rewards):
    """Notes whose rewards it is asked about, and finds no fault."""

    asked: tuple[int, ...] = ()

    async def _begun(self):
        return True

    def _ask(self, said, told):
        self.asked = (*self.asked, said.peer)
        return {"wrong": ""}


def test_the_check_of_a_contribution_waits_for_that_of_one_writer_at_most(tmp_path):
    """A round gives up the check of a contribution after a while, and many peers may write."""
    rewards = Noting(folders.create(tmp_path, "run"), lambda text: None)

    async def checks():
        writings = [Writing(0, n, 7, 0, 4, 512, 0.5, "cd" * 32) for n in (5, 6, 7)]
        await asyncio.gather(*(rewards.check(x, Written()) for x in [*writings, SAID]))

    asyncio.run(checks())
    assert rewards.asked == (5, SAID.peer, 6, 7)
