"""Nonsense against a run: `python -m bench.fuzz [--messages 10000] [--seed 0]`.

A real run (two peers, a coordinator, each a process, over real links) is bombarded while it trains:
with noise, wrong lengths, truncated and altered messages, other versions, guessed secrets, questions of
strangers; then flooded with connections. A second run is lied to by a member that speaks the protocol
perfectly: a lie in every field of every message, one at a time and in pairs, drawn from the messages'
schema, and forged, replayed and undecodable contributions. That run is simulated, the same code in virtual
time, so that `--messages 1000000` takes an hour and not weeks of waiting for limits (of nonsense and of
connections there are 10,000 at most, since these take real time). Then real peers are given such answers
by a false coordinator. Everything follows from the seed but the order in which messages arrive.

Shown: what was sent and how it ended, what the coordinator counted, its memory before and after, and
whether the run took any notice: the first state after it must be, bit for bit, that of the same run simulated
without any of this. Writes bench/results/fuzz.json.
"""

import argparse
import json
import tempfile
from pathlib import Path

from bench.fuzz.whole import fuzz

RESULTS = Path(__file__).parents[1] / "results" / "fuzz.json"


def main() -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=150)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        told = fuzz(given.messages, given.seed, Path(place), given.rounds)
    RESULTS.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))


main()
