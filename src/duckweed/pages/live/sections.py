"""The parts of the live page as HTML, from what a run's folder and its coordinator tell.

A part is sent again only when its HTML has changed, so nothing in it depends on the second at which it was
made.
"""

import math
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from markupsafe import Markup

from duckweed.pages.live.curve import Line, plot
from duckweed.pages.live.estimate import FEWEST, LEVEL, time_left
from duckweed.pages.live.follow import Follower, PeerSeen, RoundSeen
from duckweed.pages.page import table, templates
from duckweed.pages.run_summary import bits_per_byte, readable
from duckweed.run import toml
from duckweed.run.events import Progress
from duckweed.run.task.work import writes
from duckweed.run.units import show_count, show_size, show_time

PEERS = 100  # that are listed; the others are counted
ROUNDS = 12  # closed rounds that are listed
SAMPLES = 4  # texts that stand side by side
TEXT = 1200  # characters of a text that the model wrote
WORDS = 160  # characters of a reason or a name
GONE = ("gone", "silent", "put out")
STILL = 10  # times the usual length of a round, without one, until no time of the day is promised
AXES = ("tokens", "bytes", "hours")


class Terms(msgspec.Struct, frozen=True):
    """How to take part, without any secret."""

    command: str
    """The whole command, for an open run; "" where an invitation is needed."""
    needs: tuple[str, ...] = ()
    """What a machine must have, in words."""


class Live(msgspec.Struct):
    """What is known of a run beyond its folder, while it is served by this same process."""

    terms: Terms
    progress: Progress | None = None
    """What the peers are doing; None before the first word of the coordinator."""
    following: bool = False
    """Whether another machine leads the run."""


def plain(text: str, limit: int = WORDS) -> str:
    """A word of a stranger in one line: no control characters, not too long."""
    line = " ".join(readable(text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def parts(run: Follower, live: Live | None = None, now: float | None = None) -> dict[str, str]:
    """Id of each part -> its HTML."""
    now = time.time() if now is None else now
    made: dict[str, dict[str, Any]] = {
        "now": {"now": _now(run, live, now)},
        "loss": {"curves": _curves(run), "unit": unit(run)},
        "writes": {"samples": _samples(run), "count": len(run.samples)},
        "peers": _peers(run, live),
        "rounds": _rounds(run),
        "join": {"terms": live.terms if live else None, "done": run.done, "run": run},
        "proof": _proof(run),
    }
    return {name: _render(name, facts) for name, facts in made.items()}


def _render(name: str, facts: dict[str, Any]) -> str:
    return templates().get_template(f"live/{name}.html").render(**facts)


# --- losses


def unit(run: Follower) -> str:
    """What losses are given in."""
    if writes(run.spec):
        return "problems not solved"
    return "bits per byte" if run.bytes_per_token else "nats per token"


def shown(run: Follower, nats: float) -> float:
    """A loss in that unit."""
    return bits_per_byte(nats, run.bytes_per_token) if run.bytes_per_token else nats


def unseen(run: Follower) -> list[tuple[int, float]]:
    """Held-out loss where it was measured: closed rounds, nats per token."""
    found = [(x.number, x.held_out) for x in _in_order(run) if x.held_out is not None]
    return found + ([(len(run.rounds), run.final.held_out)] if run.final else [])


def _in_order(run: Follower) -> list[RoundSeen]:
    return [run.rounds[n] for n in sorted(run.rounds)]


def _curves(run: Follower) -> list[dict[str, Any]]:
    return [
        {"axis": axis, "first": axis == AXES[0], "plot": _curve(run, axis, places)}
        for axis in AXES
        if (places := _places(run, axis))
    ]


def _places(run: Follower, axis: str) -> dict[int, float]:
    """Closed rounds -> where the state after them stands on an axis."""
    at, found = 0.0, {0: 0.0}
    for seen in _in_order(run):
        if axis == "bytes" and seen.moved is None:
            continue
        at = {
            "tokens": at + seen.tokens,
            "bytes": float(seen.moved or 0),
            "hours": at + (seen.seconds or 0.0),
        }[axis]
        found[seen.number + 1] = at
    return found


def _curve(run: Follower, axis: str, places: dict[int, float]) -> Markup:
    training = [
        (places[x.number + 1], shown(run, x.loss))
        for x in _in_order(run)
        if x.loss is not None and x.number + 1 in places
    ]
    held_out = [(places[n], shown(run, x)) for n, x in unseen(run) if n in places]
    name = {"tokens": "tokens", "bytes": "on the wire", "hours": "of all rounds"}[axis]
    show_x = {
        "tokens": show_count,
        "bytes": show_size,
        "hours": lambda x: show_time(x) if x else "0",
    }[axis]
    title = f"Loss in {unit(run)} against {axis}"
    if held_out:
        title += f"; on unseen text from {held_out[0][1]:.2f} to {held_out[-1][1]:.2f}"
    lines = (Line("training", "training", training), Line("unseen text", "unseen", held_out))
    return plot(title, lines, show_x, unit(run), name)


# --- how far, and when


def _now(run: Follower, live: Live | None, now: float) -> dict[str, Any]:
    count, closed = run.spec.schedule.rounds, len(run.rounds)
    measured = unseen(run)
    last = run.rounds.get(closed - 1)
    loss = last.loss if last else None
    return {
        "closed": closed,
        "count": count,
        "done": run.done,
        "share": f"{closed / count:.0%}",
        "unit": unit(run),
        "loss": f"{shown(run, measured[-1][1]):.3f}" if measured else None,
        "began": f"{shown(run, measured[0][1]):.3f}" if len(measured) > 1 else None,
        "training": f"{shown(run, loss):.3f}" if loss is not None else None,
        "tokens": show_count(run.tokens),
        **_here(run, live),
        "waiting": _waiting(run, live),
        "still": _still(run, live, now),
        "since": _moment(_last(run)) if _last(run) else None,
        **_when(run, live, now),
    }


def _here(run: Follower, live: Live | None) -> dict[str, Any]:
    """How many peers are here, and how many came in all; without a coordinator only the latter is known."""
    came = len(run.peers)
    if run.done or live is None or live.progress is None:
        return {"who": "peers that took part", "here": f"{came:,}", "came": None}
    return {"who": "peers here", "here": f"{_present(live):,}", "came": f"{came:,}"}


def _present(live: Live) -> int:
    return sum(x.doing not in GONE for x in live.progress.peers) if live.progress else 0


def _waiting(run: Follower, live: Live | None) -> str:
    """For what the run waits, or who leads it."""
    if run.done:
        return ""
    if live is None:
        return "This page reads the files of the run; a round shows when it has closed."
    if live.following:
        return "Another machine leads the run at the moment; this page follows its ledger."
    if live.progress is None:
        return "The coordinator is starting."
    if run.rounds and not _present(live):
        return "Nobody is here at the moment. The run goes on when peers come."
    words = plain(live.progress.waiting)
    if words.endswith("waiting for peer"):
        return f"Round {len(run.rounds) + 1} is being closed."
    # The coordinator counts rounds from 0, people from 1.
    words = re.sub(r"^round (\d+):", lambda x: f"Round {int(x[1]) + 1}:", words)
    return words[:1].upper() + words[1:] + "."


def _still(run: Follower, live: Live | None, now: float) -> bool:
    """Whether the run stands still: nobody is here, or no round has closed for much longer than usual."""
    if run.done or not run.rounds or (live and live.following):
        return False
    if live and live.progress and not _present(live):
        return True
    seconds = [x.seconds for x in _in_order(run) if x.seconds is not None]
    usual = max(60.0, STILL * statistics.median(seconds)) if seconds else math.inf
    return bool(_last(run)) and now - _last(run) > usual


def _last(run: Follower) -> float:
    """When the last round closed, in seconds since 1970; 0 where that is not known."""
    return max((x.closed for x in run.rounds.values()), default=0.0)


def _when(run: Follower, live: Live | None, now: float) -> dict[str, Any]:
    """When the run will be done, rounded so coarsely that it does not change with every look."""
    seconds = [x.seconds for x in _in_order(run) if x.seconds is not None]
    left = run.spec.schedule.rounds - len(run.rounds)
    found = time_left(seconds, left)
    if run.done or left <= 0:
        return {"when": None, "ends": None}
    if found is None:
        return {"when": f"an estimate comes after {FEWEST} rounds", "ends": None}
    interval = f"{LEVEL:.0%}: {show_time(found.low)} to {show_time(found.high)}"
    closed = _last(run)
    unknown = live is None or live.following or _still(run, live, now)
    moment = None if unknown or not closed else _moment(closed + found.middle)
    return {"when": f"about {show_time(found.middle)} ({interval})", "ends": moment}


def _moment(seconds: float) -> dict[str, str]:
    """A time for the tag <time>: for programs, and in words."""
    at = datetime.fromtimestamp(round(seconds / 60) * 60, UTC)
    return {"iso": at.strftime("%Y-%m-%dT%H:%MZ"), "text": at.strftime("%a %d %b %H:%M UTC")}


# --- what the model writes


def _samples(run: Follower) -> list[dict[str, Any]]:
    """The first text, the last, and some between them."""
    rounds = sorted(run.samples)
    if len(rounds) > SAMPLES:
        rounds = [rounds[round(i * (len(rounds) - 1) / (SAMPLES - 1))] for i in range(SAMPLES)]
    return [{"round": n, "text": readable(run.samples[n][:TEXT]).strip()} for n in rounds]


# --- who is here


def name_of(run: Follower, key: str) -> str:
    """What people call the holder of a key: the name of a successor, else the beginning of the key."""
    return plain(dict(run.spec.members.heirs).get(key, key[:12]))


def _peers(run: Follower, live: Live | None) -> dict[str, Any]:
    doing = {x.peer: x.doing for x in live.progress.peers} if live and live.progress else {}
    total = max(1, run.tokens)
    order = sorted(run.peers.values(), key=lambda x: (-x.tokens, x.index))
    head = ["peer", "key", "joined", "computing", "tokens", "share", "counted", "did not count"]
    rows = [
        (
            peer.index,
            name_of(run, peer.key),
            "start" if peer.joined == 0 else f"round {peer.joined + 1}",
            f"{peer.computing:.0%}" if peer.computing is not None else "–",
            show_count(peer.tokens),
            f"{peer.tokens / total:.0%}",
            f"{peer.counted} (answers only)" if peer.wrote else peer.counted,
            _refused(peer),
        )
        for peer in order[:PEERS]
    ]
    if live and not run.done:
        head.insert(2, "now")
        rows = [
            (*row[:2], _doing(peer, doing), *row[2:])  # type: ignore[misc]
            for peer, row in zip(order, rows, strict=False)
        ]
    return {
        "peers": table(head, rows, words=("key",)),
        "more": max(0, len(order) - PEERS),
        "some": bool(order),
    }


def _doing(peer: PeerSeen, doing: dict[int, str]) -> str:
    now = doing.get(peer.index, "away")
    if now in GONE:
        return f"left: {plain(peer.left)}" if peer.left else "away"
    return now


def _refused(peer: PeerSeen) -> str:
    """Why contributions did not count: the reasons, the most frequent first."""
    found = [f"{n} × {plain(reason)}" for reason, n in peer.refused.most_common(3)]
    return "; ".join(found) or "–"


# --- rounds


def _rounds(run: Follower) -> dict[str, Any]:
    last = _in_order(run)[-ROUNDS:][::-1]
    rows = [
        (
            x.number + 1,
            _clock(x.closed),
            show_time(x.seconds) if x.seconds is not None else "–",
            show_count(x.tokens),
            f"{shown(run, x.loss):.3f}" if x.loss is not None else "–",
            x.accepted,
            "; ".join(_left_out(x)) or "–",
        )
        for x in last
    ]
    head = ["round", "closed (UTC)", "took", "tokens", f"training loss, {unit(run)}",
            "peers that counted", "did not count"]  # fmt: skip
    return {"rounds": table(head, rows), "some": bool(rows), "all": len(run.rounds)}


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%d %b %H:%M:%S") if seconds else "–"


def _left_out(seen: RoundSeen) -> Iterator[str]:
    shown = list(seen.rejected.items())
    for peer, reason in shown[:3]:
        yield f"peer {peer}: {plain(reason)}"
    if len(shown) > 3:
        yield f"and {len(shown) - 3} more"


# --- proof


def _proof(run: Follower) -> dict[str, Any]:
    rows: Sequence[tuple[str, str]] = [
        ("run", run.spec.identity),
        (f"ledger, head of {run.entries:,} entries", run.head),
        ("signed by", run.leader),
        (f"state after {run.agreed[0]:,} rounds, as the peers agreed", run.agreed[1]),
    ]
    return {"rows": rows, "run": run.spec.identity[:12], "specification": toml.write(run.spec)}
