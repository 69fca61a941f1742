"""How each contestant is started: what runs on the hub, and what on a peer's host."""

import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.rivals.environments import python
from duckweed.run import defaults, toml
from duckweed.run.spec import RunSpec, override

EVERY = 20  # steps between two exchanges, where the contestant does not exchange at every step
FLOWER = Path(__file__).parent / "flower_app"


@dataclass(frozen=True)
class Contest:
    """What one run is made of. hub: its address; rate: of learning, 0 for the contestant's own; start(host, command, log, environment)."""

    place: Path
    hub: str
    rounds: int
    batch: int
    peers: int
    rate: float
    start: Callable[..., None]
    said: Callable[[str], str]

    def hears(self, host: str, words: str, seconds: float = 120.0) -> str:
        """Wait until a host says something that matches; the first group. Raises RuntimeError."""
        closes = time.monotonic() + seconds
        while not (found := re.search(words, self.said(host))):
            if time.monotonic() > closes:
                raise RuntimeError(
                    f"{host} never said {words!r}; it said: {self.said(host)[-2000:]}"
                )
            time.sleep(0.2)
        return found.group(1)


@dataclass(frozen=True)
class Contestant:
    """environment: whose interpreter; hub: started before the peers, and gives what peers are told beside; peer:
    command of one, from its number and what the hub gave; after: started on the hub when all peers are."""

    name: str
    environment: str
    optimizer: str
    hub: Callable[[Contest], dict[str, str]]
    peer: Callable[[int, dict[str, str]], list[str]]
    after: Callable[[Contest], None] = lambda contest: None

    @property
    def stepwise(self) -> bool:
        """Whether peers say each step; of duckweed the ledger's rounds are read."""
        return self.name != "duckweed"


def module(environment: str, name: str) -> list[str]:
    return [str(python(environment)), "-m", f"bench.rivals.{name}"]


def tool(environment: str, name: str) -> str:
    return str(python(environment).parent / name)


def lighthouse(contest: Contest) -> dict[str, str]:
    bind = ["--min_replicas", "1", "--join_timeout_ms", "15000", "--bind", "[::]:29510"]
    contest.start("hub", [tool("torchft", "torchft_lighthouse"), *bind])
    return {}


def hash_table(contest: Contest) -> dict[str, str]:
    more = {"RIVALS_INDEX": "-1", "RIVALS_IDENTITY": str(contest.place / "identity")}
    contest.start("hub", module("hivemind", "hivemind_peer"), more)
    return {"RIVALS_MADDR": contest.hears("hub", r"maddr (\S+)")}


def superlink(contest: Contest) -> dict[str, str]:
    home = contest.place / "flower"
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "local"\n\n[superlink.local]\naddress = "127.0.0.1:8000"\ninsecure = true\n'
    )
    contest.start(
        "hub",
        [
            tool("flower", "flower-superlink"),
            "--insecure",
            "--disable-runtime-dependency-installation",
            "--host",
            "0.0.0.0",
        ],
        {"FLWR_HOME": str(home)},
    )
    time.sleep(5)
    return {}


def supernode(number: int, given: dict[str, str]) -> list[str]:
    where = [
        "--superlink",
        f"{given['RIVALS_HUB']}:8000",
        "--node-config",
        f"partition-id={number}",
    ]
    return [tool("flower", "flower-supernode"), "--insecure", *where]


def submit(contest: Contest) -> None:
    more = {"FLWR_HOME": str(contest.place / "flower")}
    once = f"{tool('flower', 'flwr')} run {FLOWER} local --stream"
    contest.start("hub", ["sh", "-c", f"until {once}; do sleep 3; done"], more)  # until it listens


def coordinator(contest: Contest) -> dict[str, str]:
    specification = contest.place / "run.toml"
    specification.write_text(toml.write(shipped(contest)))
    listen = ["--listen", f"{contest.hub}:7000"]
    serve = [sys.executable, "-m", "duckweed", "serve"]
    first = [*serve, str(specification), *listen, "--name", "contest", "--runs", str(contest.place)]
    again = [*serve, str(contest.place / "contest"), *listen]  # after it was killed
    known = shlex.quote(str(contest.place / "contest"))
    both = f"[ -d {known} ] && exec {shlex.join(again)} || exec {shlex.join(first)}"
    contest.start("hub", ["sh", "-c", both])
    return {"RIVALS_INVITATION": contest.hears("hub", r"(duckweed1:\S+)")}


def shipped(contest: Contest) -> RunSpec:
    """What `duckweed train` does in so many steps, of so many sequences each, in float32."""
    steps = EVERY * contest.rounds
    length: dict[str, object] = {
        "inner.steps": EVERY, "inner.batch": contest.batch, "inner.warmup": min(40, steps // 10),
        "inner.precision": "fp32",  # as all others compute
        "rounds.count": contest.rounds, "rounds.peers": contest.peers, "rounds.patience": 15.0,
        "rounds.evaluate": 1000, "rounds.evaluate_tokens": 131072,
    }  # fmt: skip
    spec = override(defaults.start({}), length)
    own = {
        "inner.learning_rate": contest.rate
        or defaults.rate(steps, contest.peers * spec.tokens_per_step),
        "inner.guide": defaults.guide(steps / spec.schedule.rounds),
    }
    return override(spec, own)


def join(number: int, given: dict[str, str]) -> list[str]:
    home = ["--home", f"{given['RIVALS_PLACE']}/peer{number}"]
    return [*module("duckweed", "duckweed_peer"), "join", given["RIVALS_INVITATION"], *home]


def nothing(contest: Contest) -> dict[str, str]:
    return {}


ALL = {
    one.name: one
    for one in (
        Contestant("plain", "ddp", "muon", nothing, lambda n, x: module("ddp", "plain_peer")),
        Contestant("ddp", "ddp", "muon", nothing, lambda n, x: module("ddp", "ddp_peer")),
        Contestant(
            "torchft", "torchft", "muon", lighthouse, lambda n, x: module("torchft", "torchft_peer")
        ),
        Contestant(
            "hivemind",
            "hivemind",
            "adamw",
            hash_table,
            lambda n, x: module("hivemind", "hivemind_peer"),
        ),
        Contestant("flower", "flower", "muon", superlink, supernode, submit),
        Contestant("duckweed", "duckweed", "muon", coordinator, join),
    )
}
