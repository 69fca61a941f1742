"""A client of the Flower app: so many steps a round from the weights that the server sends. What the optimizer
remembers it keeps in a file of its own, since Flower starts a process for each round."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from bench.rivals.training import Training, asked

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    work, index, log, fault, given = asked()
    every = int(given["every"])
    training = Training(work, index, given["optimizer"], log, fault)
    training.model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    kept = log.with_suffix(".optimizer")
    if kept.exists():
        training.optimizer.load_state_dict(torch.load(kept))
    first = (int(message.content["config"]["server-round"]) - 1) * every
    before = training.copies()
    for step in range(first, first + every):
        loss = training.gradient(step)
        training.update()
        training.said("step", step=step, loss=loss)
    torch.save(training.optimizer.state_dict(), kept)
    training.spoil(before)
    arrays = ArrayRecord(training.model.state_dict())
    metrics = MetricRecord({"num-examples": every, "loss": loss})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
