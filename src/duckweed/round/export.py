"""The end of a run: the last weights measured on all held-out text, exported, tried out."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from duckweed.learn.data.dataset import Dataset
from duckweed.learn.data.reading import DataError
from duckweed.learn.data.tokenizer import no_tokenizer
from duckweed.learn.model import model as models
from duckweed.learn.model.generation import TOP_P, Mixture, continued
from duckweed.learn.model.given import model_in
from duckweed.ledger.entries import RoundEntry
from duckweed.ledger.ledger import Ledger
from duckweed.round import founding
from duckweed.round.engine import Engine, FolderBlobs
from duckweed.round.founding import Ground
from duckweed.run import state as states
from duckweed.run.events import FinalLoss
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec
from duckweed.run.state import State, StateError
from duckweed.run.task.work import opening

FINAL_TOKENS = 262_144  # of held-out text for the measure at the end; all of it where there is less
EVALUATION_BATCH = 16
SAMPLE = 160  # tokens of text at the end of a run
Say = Callable[[str], None]


def bytes_per_token(dataset: Dataset) -> float:
    """Bytes of text per token of the held-out side: what turns nats per token into bits per byte."""
    return dataset.manifest.bytes_per_token


def latest_state(folder: RunFolder, spec: RunSpec) -> State:
    """The state after the last closed round: the newest one saved, and the updates since.

    Raises StateError, LedgerError, MergeError.
    """
    layout = founding.layout(folder)
    state = states.load(folder.state(folder.saved_rounds()[-1]), layout)
    with closing(Ledger(folder.ledger)) as ledger:
        rounds = [entry.body.closed for entry in ledger.entries(RoundEntry)]
    return Engine(spec, layout, FolderBlobs(folder)).replay(state, rounds)


def agreed(folder: RunFolder, round_: int) -> str | None:
    """Hash of the state after so many rounds, as the peers agreed on it; None where the ledger has none.
    Raises LedgerError."""
    with closing(Ledger(folder.ledger)) as ledger:
        return ledger.agreed_states().get(round_)


def check_agreed(folder: RunFolder, state: State) -> None:
    """Raises StateError if the peers agreed on another state."""
    wanted = agreed(folder, state.round) or state.hash()
    if wanted != state.hash():
        raise StateError(
            f"{folder.path}: the state after round {state.round} here is not the one that the peers agreed "
            f"on ({state.hash()[:10]}, not {wanted[:10]}); no model is made of it"
        )


def harvest(
    folder: RunFolder, spec: RunSpec, ground: Ground, device: str, keep: bool = True
) -> str:
    """Write folder.model, record the final held-out loss; returns a sample of generated text. keep: False
    for no model, and then no sample. Raises StateError if the state is not the one that the peers agreed
    on."""
    state = latest_state(folder, spec)
    check_agreed(folder, state)
    learner = founding.learner(spec, ground, device)
    nats, tokens = learner.evaluate(state.weights, FINAL_TOKENS, batch=EVALUATION_BATCH)
    del learner  # its model need not be in memory beside the next
    folder.record(FinalLoss(nats / tokens, state.round, tokens))
    if not keep:
        return ""
    model = founding.model(spec, ground)
    models.write_weights(model, state.weights)
    part = folder.model.with_name("model.part")
    shutil.rmtree(part, ignore_errors=True)
    network, tokenizer = founding.written(model, ground, part)
    del model
    shutil.rmtree(folder.model, ignore_errors=True)
    part.rename(folder.model)  # what is called a model has been read back
    most = getattr(network.config, "max_position_embeddings", None) or SAMPLE
    begins, room = opening(spec), min(SAMPLE, most // 2)
    return continued(network, tokenizer, begins, room, 0.7, spec.seed, device)


def generate(
    model: Path,
    prompt: str,
    tokens: int,
    temperature: float,
    seed: int,
    device: str,
    top_p: float = TOP_P,
    write: Say | None = None,
    mixture: Mixture | None = None,
) -> str:
    """The prompt continued by up to `tokens` tokens. temperature: 0 takes the likeliest each time; top_p:
    of the likeliest tokens, as many as have this probability together are drawn from; write: is given
    the text, the prompt first, as it is written; mixture: with other models. Raises DataError, ModelError where the folder holds no
    tokenizer or no whole model."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(no_tokenizer(str(model), error)) from error
    network = model_in(model)
    return continued(
        network, tokenizer, prompt, tokens, temperature, seed, device, top_p, write, mixture
    )
