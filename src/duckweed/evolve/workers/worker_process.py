"""The processes of a campaign: `python -m duckweed.evolve.workers.worker_process train|evaluate FOLDER`.

One JSON line in asks for a trial, one JSON line out answers. They end when their input does.
"""

import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch

from duckweed.evolve.folder import CampaignFolder
from duckweed.evolve.trial_spec import TrialResult, TrialSpec
from duckweed.evolve.trials.evaluator import Evaluator
from duckweed.evolve.trials.trial import TrialPlanner, train
from duckweed.evolve.workers.local_worker import Question, Reply
from duckweed.learn.data.dataset import Dataset

Answer = Callable[[TrialSpec, Path], TrialResult | None]


def main() -> int:
    role, folder = sys.argv[1], CampaignFolder(Path(sys.argv[2]))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    answer = _trainer(folder) if role == "train" else _evaluator(folder)
    _say(Reply())
    for line in sys.stdin:
        question = msgspec.json.decode(line, type=Question)
        began = time.perf_counter()
        try:
            result = answer(question.trial, Path(question.out))
            reply = Reply(result, time.perf_counter() - began)
        except Exception as error:  # the campaign decides what follows
            traceback.print_exc()
            reply = Reply(error=f"{type(error).__name__}: {error}")
        _say(reply)
    return 0


def _say(reply: Reply) -> None:
    print(msgspec.json.encode(reply).decode(), flush=True)


def _trainer(folder: CampaignFolder) -> Answer:
    """Trains. It opens the training text only, never the held-out ones."""
    dataset, planner = Dataset.open(folder.training), TrialPlanner.of(folder)

    def answer(trial: TrialSpec, out: Path) -> None:
        train(planner, dataset, trial, out)

    return answer


def _evaluator(folder: CampaignFolder) -> Answer:
    """Evaluates exports."""
    return Evaluator(TrialPlanner.of(folder), folder.held).evaluate


if __name__ == "__main__":
    sys.exit(main())
