"""Does a real campaign accept what is no better? `python -m bench.evolve.nulls` (5 minutes of a core).

Nothing but planted proposals, decided by real training: the parent against itself, known nulls and
known harms, with the registry, test and levels of any campaign, on a model of some 10,000 parameters
and trials of some 40 steps, so that many decisions can be had. Writes
bench/results/evolve/nulls.json and the ledger, nulls.jsonl.gz.
"""

import gzip
import json
import os
import tempfile
from pathlib import Path

import msgspec
from typer.testing import CliRunner

from duckweed.cli import app
from duckweed.evolve.campaign.history import read
from duckweed.evolve.campaign.outcome import export_ledger
from duckweed.evolve.folder import CampaignFolder
from duckweed.ledger.ledger import Ledger

RESULTS = Path(__file__).parents[1] / "results" / "evolve"
MODEL = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
BUDGET = "9e11flop"
WORDS = [
    "evolve", "--preset", "config.json", "--trial", "2.4e9flop", "--budget", BUDGET, "--out", "c",
    *(f"--set={x}" for x in (
        "candidates=0", "plant=1.0", "planned=40", "pairs=14", "pilot=6", "scale_pairs=1",
        "vault_seeds=2",
    )),
]  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "config.json").write_text(json.dumps(MODEL))
        os.chdir(base)
        result = CliRunner(env={"COLUMNS": "160"}).invoke(app, WORDS)
        print(result.output)
        if result.exit_code:
            raise SystemExit(result.exit_code)
        folder = CampaignFolder(base / "c")
        ledger = Ledger(folder.ledger)
        told = read(ledger)
        ledger.close()
        export_ledger(folder, base / "nulls.jsonl")
        ledger_as_lines = (base / "nulls.jsonl").read_bytes()
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "nulls.jsonl.gz").write_bytes(gzip.compress(ledger_as_lines, mtime=0))
    found = {
        "alpha": told.genesis.settings["alpha"],
        "pilot": msgspec.to_builtins(told.pilot),
        "planted": {
            kind: {"decided": h.decided, "accepted": h.accepted}
            for kind, h in told.planted().items()
        },
        "decisions": [
            {
                "kind": d.kind, "difference": d.difference, "pairs": d.pairs, "mean": d.mean,
                "sd": d.sd, "level": d.level, "e_value": d.e_value, "outcome": d.outcome,
            }
            for d in told.decisions
        ],
    }  # fmt: skip
    (RESULTS / "nulls.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(json.dumps(found["planted"], indent=1))


if __name__ == "__main__":
    main()
