"""Do all peers hold the same weights? The hash that most hold is written into the ledger."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from duckweed.round.history import RunHistory


class Agreement:
    """The votes on states that are not agreed on yet."""

    def __init__(self, history: RunHistory) -> None:
        self.history = history
        self._votes: dict[int, dict[int, str]] = defaultdict(dict)

    def vote(self, round_: int, peer: int, held: str, says: Mapping[int, int]) -> bool:
        """Note which state a peer holds. says: those who decide, and the work that each has done; who holds the
        state must have done more than half of it, since keys cost nothing. The vote of others is noted and
        decides nothing. True if this vote decided. Then the same peers decide on earlier states that are still open:
        who should have done so may be gone for good."""
        if round_ in self.history.agreed:
            return False
        self._votes[round_][peer] = held
        if not self._decide(round_, says):
            return False
        for earlier in sorted(n for n in self._votes if n < round_):
            self._decide(earlier, says)
        return True

    def _decide(self, round_: int, says: Mapping[int, int]) -> bool:
        """Write down the state that more than half hold, if there is one."""
        votes = self._votes[round_]
        for held in {votes[voter] for voter in says if voter in votes}:
            same = [voter for voter in says if votes.get(voter) == held]
            if 2 * sum(says[voter] for voter in same) > sum(says.values()):
                self.history.agree(round_, held, len(same))
                self._votes.pop(round_)
                return True
        return False

    def differs(self, round_: int, held: str) -> str | None:
        """Why a peer with this state must not go on; None while nothing speaks against it."""
        agreed = self.history.agreed.get(round_, held)
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

    counted: by round, the last first; missed: peers known to be gone. A newcomer has no vote, and a
    peer that is gone has none. A peer that has not come back since the coordinator started counts as
    gone only after a while: otherwise the first that came back would decide alone.
    """
    for peers in counted:
        if left := [peer for peer in peers if peer not in missed]:
            return left
    return sorted(here)
