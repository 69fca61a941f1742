"""The processes of a campaign: `python -m duckweed.evolve.workers.worker_process train|evaluate FOLDER`.

One JSON line in asks for a cell, one JSON line out answers. They end when their input does.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from duckweed.process import environment


def main() -> int:
    role, folder = sys.argv[1], Path(sys.argv[2])
    environment.prepare()
    import torch

    from duckweed.evolve.campaign.folder import Campaign
    from duckweed.evolve.decide.trial_spec import Cell

    torch.set_num_threads(int(os.environ.get("DUCKWEED_THREADS", "1")))
    torch.use_deterministic_algorithms(True)
    answer = _trainer(Campaign(folder)) if role == "train" else _judge(Campaign(folder))
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.perf_counter()
        try:
            cell, out = msgspec.convert(asked["cell"], Cell), Path(asked["out"])
            reply = answer(cell, out) | {"seconds": time.perf_counter() - began}
        except Exception as error:  # whoever asked must hear of it
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)
    return 0


def _trainer(campaign: Any) -> Any:
    """Trains cells. Is told where training text lies, and nothing of the held-out ones."""
    from duckweed.evolve.trials.trial import train
    from duckweed.learn.data.dataset import Dataset

    dataset = Dataset.open(campaign.training)
    plain = campaign.plain()

    def answer(cell: Any, out: Path) -> dict[str, Any]:
        return {"declared": msgspec.to_builtins(train(plain, campaign.path, dataset, cell, out))}

    return answer


def _judge(campaign: Any) -> Any:
    """Evaluates exports."""
    from duckweed.evolve.trials.evaluator import Evaluator

    judge = Evaluator(campaign.plain(), campaign.path, campaign.held, campaign.vocabulary())

    def answer(cell: Any, out: Path) -> dict[str, Any]:
        return {"result": msgspec.to_builtins(judge.evaluate(cell, out))}

    return answer


if __name__ == "__main__":
    sys.exit(main())
