"""duckweed beside its rivals on the work of `make demo`.

    python -m bench.rivals setup [NAME ...]          makes an environment for each rival
    python -m bench.rivals run [NAME ...] [--fault kill|stop|slow|nan|x1000|hub] [--rounds 3] [--batch 8]
    python -m bench.rivals speed [NAME ...] [--repeats 3] [--rounds 3] [--batch 8]  tokens a second, in alternation
    python -m bench.rivals table                     writes the tables of docs/rivals.md

Linux, root: each peer gets a network namespace, so that its bytes can be counted. A run that has a record is not
repeated; bench/results/rivals holds the records."""

import argparse
import json
import signal
import sys
from typing import Any

from bench.rivals.environments import REQUIRES, RESULTS, setup


def main() -> None:
    from bench.rivals.measure import FAULTS

    parser = argparse.ArgumentParser(
        prog="python -m bench.rivals", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )  # fmt: skip
    parser.add_argument("command", choices=["setup", "run", "speed", "table"])
    parser.add_argument("names", nargs="*", help="contestants; all, if none is named")
    parser.add_argument("--fault", default="", choices=["", *FAULTS])
    parser.add_argument("--rounds", type=int, default=3, help="of 20 steps")
    parser.add_argument("--repeats", type=int, default=3, help="of `speed`")
    parser.add_argument("--batch", type=int, default=8, help="sequences of a step")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="of learning; 0: the contestant's own"
    )
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for a run")
    asked = parser.parse_intermixed_args()
    if asked.command == "setup":
        setup(asked.names or list(REQUIRES))
    elif asked.command == "run":
        from bench.rivals.contestants import ALL

        for name in asked.names or list(ALL):
            run(name, asked)
    elif asked.command == "speed":
        from bench.rivals.speed import NAMES, alternate

        signal.signal(signal.SIGTERM, ended)
        alternate(asked.names or NAMES, asked.repeats, asked.rounds, asked.batch, asked.limit)
    else:
        from bench.rivals.table import write

        write()


def ended(*_: Any) -> None:
    """So that hosts are cleared away."""
    sys.exit("ended from outside")


def run(name: str, asked: argparse.Namespace) -> None:
    from bench.rivals.measure import measure

    signal.signal(signal.SIGTERM, ended)
    RESULTS.mkdir(parents=True, exist_ok=True)
    kind = asked.fault or f"{asked.rounds}x20-batch-{asked.batch}"
    kind += f"-rate-{asked.rate:g}" if asked.rate else ""
    path = RESULTS / f"{name}-{kind}.json"
    if not path.exists():
        record = measure(name, asked.rounds, asked.batch, asked.fault, asked.limit, asked.rate)
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(line(json.loads(path.read_text())), flush=True)


def line(record: dict[str, Any]) -> str:
    sent, received = sum(record["sent"]) / 4e6, sum(record["received"]) / 4e6
    return (
        f"{record['contestant']:9} {record['fault'] or '-':6} finished {record['finished']}, bits {record['bits_per_byte']}, "
        f"{record['tokens_per_second']} tokens/s, {sent:.2f} MB up, {received:.2f} down, longest gap {record['longest_gap']} s, "
        f"codes {record['exit_codes']}"
    )


if __name__ == "__main__":
    main()
