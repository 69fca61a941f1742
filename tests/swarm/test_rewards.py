"""A coordinator that cannot check rewards says so, and the run goes on."""

import asyncio

from duckweed.merge.round import Announcement
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
