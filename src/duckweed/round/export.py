"""The end of a run: the last weights measured on all held-out text, exported, tried out."""

import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from transformers import TextStreamer

from duckweed.learn.data.dataset import Dataset
from duckweed.learn.device import seeded
from duckweed.learn.model import model as models
from duckweed.learn.model.architecture import ModelError
from duckweed.ledger.entries import RoundEntry, StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.round import founding
from duckweed.round.engine import Engine, FolderBlobs
from duckweed.round.founding import Ground
from duckweed.run import state as states
from duckweed.run.events import FinalLoss
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec
from duckweed.run.state import State, StateError

FINAL_TOKENS = 262_144  # of held-out text for the measure at the end; all of it where there is less
EVALUATION_BATCH = 16
SAMPLE = 160  # tokens of text at the end of a run
TOP_P = 0.95
Say = Callable[[str], None]


class Written(TextStreamer):
    """Hands on text as it is generated, as soon as no later token can change it: word by word."""

    def __init__(self, tokenizer: Any, write: Say) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self.write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.write(text)


def bytes_per_token(dataset: Dataset) -> float:
    """Bytes of text per token of the held-out side: what turns nats per token into bits per byte."""
    return dataset.manifest.held_out_bytes / max(1, dataset.manifest.held_out_tokens)


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
        found = [x.body.hash for x in ledger.entries(StateEntry) if x.round == round_]
    return found[-1] if found else None


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
    return continued(network, tokenizer, "def ", min(SAMPLE, most // 2), 0.7, spec.seed, device)


def generate(
    model: Path,
    prompt: str,
    tokens: int,
    temperature: float,
    seed: int,
    device: str,
    top_p: float = TOP_P,
    write: Say | None = None,
) -> str:
    """The prompt continued by up to `tokens` tokens. temperature: 0 takes the likeliest each time; top_p:
    of the likeliest tokens, as many as have this probability together are drawn from; write: is given
    the text, the prompt first, as it is written."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    with models.quiet():
        network = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, trust_remote_code=False
        )
    return continued(network, tokenizer, prompt, tokens, temperature, seed, device, top_p, write)


def continued(
    network: Any,
    tokenizer: Any,
    prompt: str,
    tokens: int,
    temperature: float,
    seed: int,
    device: str,
    top_p: float = TOP_P,
    write: Say | None = None,
) -> str:
    """The same with model and tokenizer as transformers has read them; keys and values of the tokens
    before are kept (`use_cache`), so that each token is computed once."""
    network = network.to(device).eval()
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    if ids.numel() == 0:
        ids = torch.tensor([[tokenizer.eos_token_id]])
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p}
    with torch.no_grad(), seeded(seed, device):
        try:
            out = network.generate(
                input_ids=ids.to(device),
                attention_mask=torch.ones_like(ids).to(device),
                max_new_tokens=tokens,
                pad_token_id=tokenizer.eos_token_id,
                use_cache=True,
                streamer=Written(tokenizer, write) if write else None,
                **(sampling if temperature > 0 else {"do_sample": False}),
            )
        except IndexError as error:  # a table of positions that is too short
            most = getattr(network.config, "max_position_embeddings", "fewer")
            raise ModelError(
                f"the model cannot write {tokens} tokens after a prompt of {ids.numel()}: it has "
                f"positions for {most}; ask for fewer tokens"
            ) from error
    return str(tokenizer.decode(out[0], skip_special_tokens=True))
