"""The figures of runs as Prometheus reads them (text format 0.0.4)."""

from collections.abc import Callable, Iterable

from duckweed.pages.live.sections import GONE, unseen
from duckweed.pages.live.show import Show

KIND = "text/plain; version=0.0.4; charset=utf-8"

Sample = tuple[dict[str, str], float]


def exposition(shows: dict[str, Show]) -> str:
    """All figures of all runs that are shown."""
    lines: list[str] = []
    for name, kind, text, of in FIGURES:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for run, show in shows.items():
            lines += [_line(name, {"run": run} | labels, value) for labels, value in of(show)]
    return "\n".join(lines) + "\n"


def _line(name: str, labels: dict[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value:.12g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _losses(show: Show) -> Iterable[Sample]:
    run = show.run
    last = run.rounds.get(len(run.rounds) - 1)
    if last and last.loss is not None:
        yield {"split": "training"}, last.loss
    if measured := unseen(run):
        yield {"split": "held_out"}, measured[-1][1]


def _last_round(show: Show) -> Iterable[Sample]:
    last = show.run.rounds.get(len(show.run.rounds) - 1)
    if last and last.seconds is not None:
        yield {}, last.seconds


def _here(show: Show) -> Iterable[Sample]:
    if show.live and show.live.progress:
        yield {}, sum(x.doing not in GONE for x in show.live.progress.peers)


def _moved(show: Show) -> Iterable[Sample]:
    known = [x.moved for x in show.run.rounds.values() if x.moved is not None]
    if known:
        yield {}, max(known)


def _contributions(show: Show) -> Iterable[Sample]:
    rounds = show.run.rounds.values()
    yield {"counted": "yes"}, sum(x.accepted for x in rounds)
    yield {"counted": "no"}, sum(len(x.rejected) for x in rounds)


FIGURES: tuple[tuple[str, str, str, Callable[[Show], Iterable[Sample]]], ...] = (
    ("duckweed_rounds_closed_total", "counter", "Rounds that are closed.", lambda x: [({}, len(x.run.rounds))]),
    ("duckweed_rounds_planned", "gauge", "Rounds of the whole run.", lambda x: [({}, x.run.spec.schedule.rounds)]),
    ("duckweed_tokens_total", "counter", "Tokens of the contributions that counted.", lambda x: [({}, x.run.tokens)]),
    ("duckweed_loss_nats", "gauge", "Loss in nats per token.", _losses),
    ("duckweed_round_seconds", "gauge", "How long the last round was open.", _last_round),
    ("duckweed_peers_admitted_total", "counter", "Peers that were ever admitted.", lambda x: [({}, len(x.run.peers))]),
    ("duckweed_peers_here", "gauge", "Peers that take part at the moment.", _here),
    ("duckweed_contributions_total", "counter", "Contributions by whether they counted.", _contributions),
    ("duckweed_traffic_bytes_total", "counter", "Bytes of all peers, up and down.", _moved),
    ("duckweed_page_viewers", "gauge", "Browsers that watch the page.", lambda x: [({}, x.viewers)]),
)  # fmt: skip
"""Name, type, what it is, and its values of one run."""
