"""Do all peers hold the same weights? The hash that most hold is written into the ledger."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from duckweed.round.history import Past


class Agreement:
    """The votes on states that are not agreed on yet."""

    def __init__(self, past: Past) -> None:
        self.past = past
        self._votes: dict[int, dict[int, str]] = defaultdict(dict)

    def vote(self, round_: int, peer: int, held: str, voters: Sequence[int]) -> bool:
        """Note which state a peer holds; voters: those who decide, of whom more than half must hold it.
        The word of others is noted and decides nothing. True if this voice decided it."""
        if round_ in self.past.agreed:
            return False
        votes = self._votes[round_]
        votes[peer] = held
        same = sum(votes.get(voter) == held for voter in voters)
        if 2 * same <= len(voters):
            return False
        self.past.agree(round_, held, same)
        self._votes.pop(round_)
        return True

    def differs(self, round_: int, held: str) -> str | None:
        """Why a peer with this state must not go on; None while nothing speaks against it."""
        agreed = self.past.agreed.get(round_, held)
        if agreed == held:
            return None
        return (
            f"the weights of this peer after round {round_} differ from those of the others "
            f"({held[:10]}, not {agreed[:10]}); it must not contribute"
        )


def voters(
    counted: Iterable[Sequence[int]], here: Collection[int], missed: Collection[int]
) -> Sequence[int]:
    """Who decides which state is the right one: those whose work counted last.

    counted: by round, the last first; missed: peers known to be gone. A newcomer has no voice. The dead
    have none either, but who has not come back since the coordinator started is not dead at once: else
    whoever came back first would decide alone.
    """
    for peers in counted:
        if left := [peer for peer in peers if peer not in missed]:
            return left
    return sorted(here)
