"""The record: bench/results/wire.json, and each row of it as soon as it is measured."""

import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results" / "wire.json"

Row = dict[str, Any]


def told(row: Row) -> Row:
    """The row, which whoever waits for the others sees already."""
    print(row, file=sys.stderr, flush=True)
    return row


def keep(new: Row) -> Row:
    """The whole record with what is new in it; what was not measured again stays."""
    whole = json.loads(RESULTS.read_text()) | new if RESULTS.exists() else new
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(whole, indent=1) + "\n")
    return whole
