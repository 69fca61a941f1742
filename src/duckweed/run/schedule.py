"""How many inner steps each round of a run has: a pure function of its specification."""

import msgspec

WORTH = 16  # bits of a value that data parallelism exchanges: bf16
GROWTH = 4  # with a budget of bytes, how many times as many steps as the first the last round has


class Schedule(msgspec.Struct, frozen=True):
    """The inner steps 0 to `steps` of a run, divided into `rounds` rounds, each of at least one. The steps
    of a round grow evenly from the first round to the last, which has `growth` times as many, up to
    rounding to whole steps."""

    steps: int  # of one peer over the whole run, at least `rounds`
    rounds: int
    growth: int = 1

    def begins(self, round_: int) -> int:
        """The inner step at which a round begins; the number of all steps for the round after the last."""
        # In integers, so that every machine gets the same: with g = growth and n = rounds - 1 the rounds
        # weigh n, n + (g - 1), n + 2 (g - 1), ..., g n; their sum is (g + 1) n / 2 for each round.
        last, more = self.rounds - 1, self.growth - 1
        if not last or not more:
            return self.steps * round_ // self.rounds
        before = 2 * last * round_ + more * round_ * (round_ - 1)
        # One step is every round's own; the others are divided by weight.
        whole = (self.growth + 1) * last * self.rounds
        return round_ + (self.steps - self.rounds) * before // whole

    def steps_of(self, round_: int) -> int:
        """Inner steps of a round, of a peer of usual speed."""
        return self.begins(round_ + 1) - self.begins(round_)

    @property
    def longest(self) -> int:
        """Inner steps of the longest round."""
        return max(self.steps_of(n) for n in range(max(0, self.rounds - self.growth), self.rounds))


def within(saving: float, steps: int, peers: int, bits: float) -> Schedule:
    """The rounds that make a peer send `saving` times fewer bytes than bf16 data parallelism, whose ring
    all-reduce sends 2 (M - 1) / M values for each parameter and step. bits: of a contribution, for each
    parameter; steps: inner steps of a peer over the run."""
    others = max(1, peers - 1) / max(2, peers)
    rounds = int(steps * 2 * others * WORTH / (saving * bits))
    return Schedule(steps, min(steps, max(1, rounds)), GROWTH)
