"""What a recipe's training may cost, against that of its parent."""

import msgspec

from duckweed.learn.arithmetic import Cost
from duckweed.run.units import show_size


class Bounds(msgspec.Struct, frozen=True):
    """What a child may cost."""

    parameters: tuple[float, float] = (0.8, 1.25)
    """Least and most, over those of the parent."""
    token: float = 16.0
    """FLOPs per token, over the parent's."""
    memory: float = 4e9
    """Bytes."""

    def excess(self, parent: Cost, child: Cost, before: int, after: int) -> str | None:
        """Why the child is out of bounds, or None; before, after: tokens of a step of the two."""
        low, high = self.parameters
        ratio = child.parameters / parent.parameters
        if not low <= ratio <= high:
            return (
                f"{ratio:.2f} times the parameters: a campaign stays between {low:g} and {high:g}"
            )
        ratio = child.per_token(after) / parent.per_token(before)
        if ratio > self.token:
            return f"{ratio:.0f} times the FLOPs of a token, at most {self.token:g}"
        if child.memory > self.memory:
            return f"takes {show_size(child.memory)}, at most {show_size(self.memory)}"
        return None
