"""How many inner steps each round of a run has: a pure function of its specification."""

import msgspec

WORTH = 16  # bits of a value that data parallelism exchanges: bf16


class Schedule(msgspec.Struct, frozen=True):
    """The inner steps 0 to `steps` of a run, divided as evenly as whole steps allow into `rounds` rounds. Rounds
    that grow, or shrink, were no better at as many bytes (docs/parity.md)."""

    steps: int  # of one peer over the whole run
    rounds: int  # at most as many
    first: int = 0  # number of the first step: those that a path's family has done before

    def begins(self, round_: int) -> int:
        """The inner step at which a round begins; where the last one ends for the round after it."""
        return self.first + self.steps * round_ // self.rounds

    def steps_of(self, round_: int) -> int:
        """Inner steps of a round, of a peer of usual speed."""
        return self.begins(round_ + 1) - self.begins(round_)

    @property
    def fewest(self) -> int:
        """Inner steps of the shortest round."""
        return self.steps // self.rounds

    @property
    def most(self) -> int:
        """Inner steps of the longest round, one more at most."""
        return -(-self.steps // self.rounds)


def within(saving: float, steps: int, peers: int, bits: float, first: int = 0) -> Schedule:
    """As many rounds as let a peer send `saving` times fewer bytes than bf16 data parallelism, whose ring
    all-reduce sends 2 (M - 1) / M values for each parameter and step; at least one, at most one a step. bits: of a
    contribution, for each parameter; steps: inner steps of a peer over the run; peers: M, at least 2; first: as in Schedule."""
    ring = 2 * (max(2, peers) - 1) / max(2, peers) * WORTH
    return Schedule(steps, min(steps, max(1, int(steps * ring / (saving * bits)))), first)
