"""What audits as a duty do, and what they cost.

`python -m bench.trust.duty soon`: how soon they put out who cheats, and whom else. Ten peers. The hostile ones hand in work in every round that no honest auditor finds to fit. Alone they audit as
everybody does; together they find no fault in each other, and fault in all honest peers. Draws and decisions are the
product's own (duckweed.audit); nothing is trained, and nobody's line or machine fails. RUNS runs of each kind, from
beacons that a seed gives.

`python -m bench.trust.duty cost FOLDER`: honest runs of a model of some 25,000 parameters in virtual time, six peers alike, on
links of 10 Mbit/s up and 50 down: tokens that counted in a second, with audits and without.

The tables of docs/audit.md are printed, and bench/results/duty.json written.
"""

import json
import statistics
import sys
from collections import Counter
from pathlib import Path

from blake3 import blake3

from bench.fuzz.whole import found, specification
from duckweed.audit import draw, outcomes
from duckweed.ledger.entries import AuditEntry, RoundEntry, Verdict
from duckweed.ledger.ledger import Ledger
from duckweed.net.link_spec import parse_links
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run.spec import override
from duckweed.swarm.coordinator.audits import KEEPERS

RESULTS = Path(__file__).parents[1] / "results" / "duty.json"
PEERS, ROUNDS, RUNS = 10, 400, 1000
KINDS = {
    "1 hostile": (1, False),
    "3 hostile, each for itself": (3, False),
    "3 hostile, together": (3, True),
    "4 hostile, each for itself": (4, False),
    "4 hostile, together": (4, True),
}
SHARES = (0.05, 0.1)
WITHIN = 60
SHOWN = 1
"""Rounds from the drawing until a contribution can be done again: its peer is told when it applies the round, and
shows it during the next."""


class Run:
    """One run. ended: outcome -> audits of honest peers; out: hostile peer -> rounds until it was put out."""

    def __init__(self, seed: str, hostile: int, together: bool, share: float) -> None:
        self.seed, self.hostile, self.together, self.share = seed, hostile, together, share
        self.here = set(range(PEERS))
        self.out: dict[int, int] = {}
        self.ended: Counter[str] = Counter()
        self.wronged = 0  # honest peers that were put out

    def play(self) -> None:
        """Rounds until all hostile peers are out, and no more than ROUNDS."""
        for round_ in range(ROUNDS):
            beacon = blake3(f"{self.seed} {round_}".encode()).hexdigest()
            work = dict.fromkeys(sorted(self.here), 1000 * (round_ + 1))
            for peer in draw.drawn(beacon, sorted(self.here), self.share):
                self._audit(round_, peer, draw.auditors(beacon, peer, work)[:KEEPERS])
            if len(self.out) == self.hostile:
                return

    def _audit(self, round_: int, peer: int, keepers: list[int]) -> None:
        verdicts: dict[int, Verdict] = {}
        order, outcome = [x for x in keepers if x in self.here], None
        while outcome is None:
            auditor = order.pop(0)
            verdicts[auditor] = Verdict(self._fits(auditor, peer), "", "")
            outcome = outcomes.decided(verdicts, len(keepers), bool(order))
        # One auditor is asked in each round.
        at = round_ + SHOWN + len(verdicts)
        for gone in outcomes.put_out(round_, peer, outcome, verdicts, at, []):
            self.here.discard(gone)
            if gone < self.hostile:
                self.out.setdefault(gone, at)
            else:
                self.wronged += 1
        if peer >= self.hostile:
            self.ended[outcome] += 1

    def _fits(self, auditor: int, peer: int) -> bool:
        """What an auditor says."""
        if self.together and auditor < self.hostile:
            return peer < self.hostile
        return peer >= self.hostile


def measure(hostile: int, together: bool, share: float) -> dict[str, float]:
    """Of all RUNS runs together."""
    rounds: list[int] = []
    wronged = audits = 0
    for number in range(RUNS):
        run = Run(f"{number} {hostile} {together} {share}", hostile, together, share)
        run.play()
        rounds += [run.out.get(peer, ROUNDS) for peer in range(hostile)]
        wronged, audits = wronged + run.wronged, audits + run.ended.total()
    rounds.sort()
    return {
        "median": statistics.median(rounds),
        "95 of 100": rounds[int(0.95 * len(rounds))],
        "within": sum(x <= WITHIN for x in rounds) / len(rounds),
        "audits of honest peers": audits,
        "honest peers put out": wronged,
    }


TRAINERS, LENGTH = 6, 40
"""Peers and rounds of a run whose cost is measured."""


def cost(base: Path, share: float) -> dict[str, float]:
    """One run: tokens that counted, by the second; contributions that the filter left out; audits."""
    changes = {
        "members.join": "open", "members.audits": share, "rounds.peers": TRAINERS,
        "rounds.evaluate": LENGTH, "rounds.patience": 60.0, "inner.warmup": 0,
    }  # fmt: skip
    spec = override(specification(base, LENGTH, 4), changes)
    folder, ground, state = found(base, f"audits-{share}", spec)
    run = Simulation(
        folder, spec, founding.layout(folder), ground, state, "cpu",
        parse_links("10/50 80ms", TRAINERS), step_seconds=2.0,
    )  # fmt: skip
    run.run()
    ledger = Ledger(folder.ledger)
    rounds = [entry.body for entry in ledger.entries(RoundEntry)]
    ended = Counter(entry.body.outcome for entry in ledger.entries(AuditEntry))
    ledger.close()
    tokens = sum(one.contributions[x].tokens for one in rounds for x in one.closed.accepted)
    left_out = sum(len(one.closed.rejected) for one in rounds)
    return {"tokens a second": tokens / run.clock, "left out": left_out, **ended}


def costs(base: Path) -> dict[str, dict[str, float]]:
    """The table of what audits cost."""
    base.mkdir(parents=True, exist_ok=True)
    print(
        "| audits | how they ended | tokens a second | of a run without | left out by the filter |\n"
        "|---|---|---|---|---|"
    )
    made = {}
    for share in (0.0, *SHARES, 0.3):
        one = made[f"cost {share}"] = cost(base, share)
        ended = ", ".join(
            f"{n} {x}" for x, n in one.items() if x not in ("tokens a second", "left out")
        )
        rate, before = one["tokens a second"], made["cost 0.0"]["tokens a second"]
        print(
            f"| {share:.0%} | {ended or '-'} | {rate:.1f} | {rate / before:.1%} | {one['left out']} |",
            flush=True,
        )
    return made


def soon() -> dict[str, dict[str, float]]:
    """The table of how soon hostile peers are out."""
    made = {}
    print(
        f"| audits | of {PEERS} peers | rounds until a hostile peer is out: half, 95 of 100 | "
        f"within {WITHIN} rounds | honest peers put out, of audits |\n|---|---|---|---|---|"
    )
    for share in SHARES:
        for name, (hostile, together) in KINDS.items():
            one = made[f"{share} {name}"] = measure(hostile, together, share)
            print(
                f"| {share:.0%} | {name} | {one['median']:.0f}, {one['95 of 100']:.0f} | "
                f"{one['within']:.1%} | {one['honest peers put out']:.0f} of "
                f"{one['audits of honest peers']:,.0f} |",
                flush=True,
            )
    return made


def main() -> None:
    match sys.argv[1:]:
        case ["soon"]:
            made = soon()
        case ["cost", folder]:
            made = costs(Path(folder))
        case _:
            raise SystemExit(__doc__)
    known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    RESULTS.write_text(json.dumps(known | made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
