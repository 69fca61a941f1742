"""What models wrote in reinforcement learning, as peers tell it and metrics keep it."""

import msgspec

from duckweed.run.checked import Count, SumOfNats

FLAT = 0.95  # share of groups without spread from which almost nothing is learnt


class Written(msgspec.Struct, forbid_unknown_fields=True):
    """What a model wrote in reinforcement learning, as sums that add up over peers and rounds."""

    problems: Count = 0
    answers: Count = 0
    tokens: Count = 0
    """Of the answers."""
    reward: SumOfNats = 0.0
    """Sum over the answers, each from 0 to 1."""
    right: Count = 0
    """Answers with the whole reward."""
    solved: Count = 0
    """Problems with a right answer among those of their group."""
    flat: Count = 0
    """Groups without spread: all their answers have the same reward, and nothing is learnt from them."""
    cut: Count = 0
    """Answers that their limit of tokens ended."""
    long: Count = 0
    """Problems that were left out because their question leaves no room for an answer."""
    failed: Count = 0
    """Checks that raised or took too long, and counted as wrong."""
    entropy: SumOfNats = 0.0
    """Sum over the tokens, nats."""

    def __add__(self, other: "Written") -> "Written":
        mine, others = msgspec.structs.astuple(self), msgspec.structs.astuple(other)
        return Written(*(a + b for a, b in zip(mine, others, strict=True)))

    @property
    def pass_at_1(self) -> float:
        return self.right / max(1, self.answers)

    def words(self) -> str:
        """One line, for a person."""
        each, groups = max(1, self.answers), max(1, self.problems)
        more = f", {self.long} questions too long" if self.long else ""
        more += f", {self.failed} checks failed" if self.failed else ""
        return (
            f"reward {self.reward / each:.3f}, pass@1 {self.pass_at_1:.1%}, "
            f"{self.flat / groups:.0%} of groups without spread, {self.tokens / each:.1f} tokens an answer "
            f"({self.cut / each:.0%} cut), entropy {self.entropy / max(1, self.tokens):.2f}{more}"
        )

    def advice(self) -> str:
        """What to change where almost no group has spread, and so almost nothing is learnt; "" elsewhere."""
        if self.flat < FLAT * self.problems or not self.problems:
            return ""
        said = f"{self.flat} of {self.problems} groups had no spread, so that almost nothing is learnt: "
        if self.pass_at_1 > 0.5:
            return said + (
                f"the problems are too easy (pass@1 {self.pass_at_1:.0%}); make them harder with "
                "task.environments.NAME.settings, or raise task.temperature"
            )
        return said + (
            f"the problems are too hard (pass@1 {self.pass_at_1:.1%}); make them easier with "
            "task.environments.NAME.settings, train on worked solutions first (task.kind = 'chat'), or raise "
            "task.samples. If right answers are not recognised: task.marker says where they begin"
        )
