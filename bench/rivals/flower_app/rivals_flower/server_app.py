"""The server of the Flower app: FedAvg over all clients, the first weights from the work's folder."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from bench.rivals.training import Training, asked

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    work, _, log, _, given = asked()
    peers, every = int(given["peers"]), int(given["every"])
    training = Training(work, 0, given["optimizer"], log)
    strategy = FedAvg(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=peers
    )
    first = ArrayRecord(training.model.state_dict())
    rounds = training.steps // every
    result = strategy.start(grid, first, num_rounds=rounds, timeout=300)
    training.model.load_state_dict(result.arrays.to_torch_state_dict())
    training.end()
