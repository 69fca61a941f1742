"""A run in ten lines: two peers as processes teach a small model this repository's docs.

python examples/run.py
"""

from pathlib import Path

import duckweed

DOCS = f"{Path(__file__).parents[1]}/docs/*.md"
SMALL = {"model.source": "llama-0.5m", "rounds.peers": 2, "rounds.count": 3, "inner.steps": 7}

training = duckweed.train({"data.path": DOCS, **SMALL}, name="in-ten-lines")
for closed in training:
    print(f"round {closed.round}: {closed.loss:.3f} nats per token, peers {closed.accepted}")
print(training.run.losses())
print(training.run.generate("The model ", tokens=40))
