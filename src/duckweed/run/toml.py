"""A specification as TOML text that a person can read and edit."""

import json
from typing import Any

import msgspec

from duckweed.run.spec import RunSpec

NOTES = {
    "seed": 'description = "what is trained and why": everybody who looks at the run reads it\n'
    "seed: everything random in the run follows from this number",
    "task": "kind: 'text' (next tokens; what is meant without this section), 'chat' (conversations; the loss is of\n"
    "what the assistant says), 'reinforce' (answers that are checked); docs/reason.md",
    "data": "path: 'stdlib', files, folders, globs (text, JSON, JSON lines, Parquet; also .gz .zst), or\n"
    "hf:NAME[:config]; encoding = 'NAME' where text is no UTF-8 and has no byte-order mark\n"
    "tokenizer: 'bytes', 'bpe:N' (trained on this data), a tokenizer.json, a folder, or a hub name",
    "model": "source: a preset (llama-0.5m, llama-0.6m, llama-1m, llama-15m, llama-125m, llama-1b, qwen3-0.6b,\n"
    "deepseek-v3-mini), a folder, a config.json, or a hub name; sequence: tokens per training sequence",
    "architecture": "what is changed of the source's configuration (docs/learn.md)",
    "inner": "what a peer does alone between two exchanges: `steps` steps of `batch` sequences\n"
    "optimizer: muon, normuon (hidden matrices; AdamW for the rest), adamw or lion\n"
    "schedule: wsd, cosine, constant; state: a round begins with an optimizer state that is 'fresh', or\n"
    "with that which the peer has 'kept' from the round before\n"
    "guide: how far Muon's momenta turn to what all have merged last, before each round: 0.004 for each\n"
    "step of a round, at most 0.1, was best\n"
    "residual: how alike what peers could not send yet is taken to be (0 to 1); each begins a round with that share\n"
    "of its own applied, one alone with all of it; without it with nothing\n"
    "learning_rate: at its peak, for a run of this length; ten times the steps want 0.4 of it",
    "wire": "what is sent. kind: 'integer' (threshold, value, levels), 'sparse' (chunk, keep),\n"
    "'dense' (dtype fp32, bf16, int8); feedback: share of the unsent rest that is carried over",
    "merge": "rule: mean, filtered (the mean without those who work against the others; integer only), bounded\n"
    "(step size from the median peer), contributors (sparse only); not named: filtered in open runs with\n"
    "wire.kind = 'integer', else mean",
    "outer": "the step that all peers take together, nesterov or none: learning_rate of the merged way\n"
    "(1.0: the whole of it) and momentum; with rounds.overlap 0.7 and 0.6 were better (docs/swarm.md)",
    "rounds": "count: rounds in all; peers: how many start; evaluate, checkpoint: every so many rounds\n"
    "saving: a budget of bytes: each peer sends so many times fewer than data parallelism would. The run\n"
    "then has as many rounds as that pays for, and count x inner.steps only says how much is trained\n"
    "a round closes when all have sent, or after `patience` seconds of waiting for stragglers\n"
    "overlap: share of a round's steps trained while the one before is exchanged; price: docs/swarm.md",
    "members": "join: 'invited' (an invitation, or a public key in `keys`) or 'open' (anyone, within limits)\n"
    "open runs: newcomers, and peers of one address, weigh at most `share` of a round; see docs/swarm.md\n"
    "audits: share of the contributions that other peers do again, 0.05 in open runs (docs/audit.md)\n"
    "successors: two machines or more, 'NAME:KEY' each (duckweed identity), that keep the ledger too and\n"
    "go on with the run if its coordinator is away for `absence` seconds",
    "paths": "a family of models of this size: after a common start (share `common` of the rounds) each of `count` paths\n"
    "trains alone, on the sequences that their first `prefix` tokens route to it; docs/paths.md\n"
    "shared: what the paths have in common after that: 'none', 'trunk' (all but the feed-forward parts) or patterns\n"
    "of tensors' names",
    "branch": "written by duckweed: which run of a family this is",
}


def write(spec: RunSpec, notes: bool = False) -> str:
    """TOML text that `spec.parse` reads back to the same specification."""
    return text(msgspec.to_builtins(spec), notes)


def text(raw: dict[str, Any], notes: bool = False) -> str:
    """TOML text of sections and keys; what is None is left out."""
    lines = []
    for key, value in raw.items():
        if notes and key in NOTES:
            lines += ["", *(f"# {line}" for line in NOTES[key].splitlines())]
        if isinstance(value, dict):
            lines += ([] if notes else [""]) + [f"[{key}]"]
            lines += [f"{k} = {_value(v)}" for k, v in value.items() if v is not None]
        else:
            lines.append(f"{key} = {_value(value)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def _value(value: object) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{_value(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return f"{{{inside}}}"
    # JSON's strings, numbers, lists and booleans are valid TOML values as they stand, but for one
    # control character that JSON leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
