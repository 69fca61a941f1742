"""Every rank of a site but the first: it does what rank 0 tells it, until it is told to end."""

import json

import torch
from transformers import AutoConfig

from duckweed.learn import registry
from duckweed.learn.fit import Say
from duckweed.learn.optim.optimizer import InnerOptimizer
from duckweed.learn.optim.schedule import learning_rate
from duckweed.learn.site.group import Group
from duckweed.learn.site.orders import (
    Begin,
    Build,
    End,
    Fix,
    Listed,
    Load,
    Measure,
    Read,
    State,
    Step,
)
from duckweed.learn.site.rank import Rank
from duckweed.run import spec as specs


class Member(Rank):
    """Keeps nothing from one block to the next."""

    def __init__(self, group: Group, say: Say) -> None:
        self.group, self._say = group, say

    def follow(self) -> None:
        """Until rank 0 says that it is the end."""
        stepper: InnerOptimizer | None = None
        while True:
            match self.group.hear():
                case Build(spec=spec, config=config, ways=ways):
                    stepper = None
                    said = specs.parse(spec, "the specification that rank 0 gave")
                    self.objective = registry.objective(said)
                    self.build(said, AutoConfig.for_model(**json.loads(config)), ways)
                case Fix(buffers=buffers):
                    arrays = self.group.receive(buffers)
                    self.fix({name: torch.from_numpy(x) for name, x in arrays.items()})
                case Load(training=training):
                    stepper = None
                    self.spread.load(None)
                    self.model.train(training)
                case Begin(seed=seed, state=state):
                    torch.manual_seed(seed + self.group.rank)
                    stepper = self.begin(state, None)
                case Step(number=number, batch=batch):
                    assert stepper is not None
                    self._step(stepper, number, batch)
                case Measure(batch=batch):
                    with torch.no_grad():
                        self.measured(self.group.receive(batch))
                case State():
                    assert stepper is not None
                    for _, value in stepper.kept():
                        self.spread.whole(value)
                case Read():
                    self.spread.read()
                case End():
                    return

    def _step(self, stepper: InnerOptimizer, number: int, listed: list[Listed]) -> None:
        self.gradients(self.group.receive(listed))
        stepper.step(learning_rate(self.spec.inner, number, self.spec.course), number)
