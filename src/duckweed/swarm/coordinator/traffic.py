"""How many bytes a coordinator has moved, and for what."""

from collections import defaultdict

from duckweed.swarm.coordinator.admission import Admission
from duckweed.swarm.protocol import messages as m


class Traffic:
    """Counts the bytes of questions and answers by purpose."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._moved: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def count(self, question: m.AnyQuestion, answer: m.Answer, received: int, sent: int) -> None:
        """Count a question and its answer."""
        work = isinstance(question, m.Contribute | m.Wrote)
        purpose = "contributions" if work else "control"
        self._moved[purpose][0] += received
        purpose = "updates" if isinstance(answer, m.Blob) else "control"
        self._moved[purpose][1] += sent

    def moved(self) -> dict[str, list[int]]:
        """Purpose -> bytes received and sent. Between peers: bytes given and fetched, as the peers say."""
        shared = zip(*(x.shared for x in self._admission.by_index.values()), strict=True)
        between = [sum(x) for x in shared] or [0, 0]
        return {purpose: list(counts) for purpose, counts in self._moved.items()} | {
            "between peers": between
        }
