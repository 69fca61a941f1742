"""The site of a run, or of a folder of runs: what is answered to which path. It reads, and never writes."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from duckweed.ledger.ledger import LedgerError
from duckweed.pages.live.follow import Follower
from duckweed.pages.live.prometheus import KIND, exposition
from duckweed.pages.live.sections import AXES, Live, plain
from duckweed.pages.live.show import Show
from duckweed.pages.page import templates
from duckweed.run.folder import FolderError, RunFolder
from duckweed.run.spec import SpecError
from duckweed.run.units import show_count

STUCK = 20.0  # seconds in which a viewer must read what it was sent
UNREADABLE = (SpecError, LedgerError, FolderError, OSError)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""A report is one file with its own script, which is let nowhere else."""

Abort = Callable[[tuple[str, int]], None]


class Site:
    """The runs that are shown, by name, and the application that shows them.

    place: the folder of a run, or one of runs. lives: what is known of those that this process serves, by name.
    abort: cuts the connection of a viewer that does not read. Raises FolderError, SpecError, LedgerError.
    """

    def __init__(self, place: Path, lives: Mapping[str, Live] = MappingProxyType({})) -> None:
        self.place, self.lives = place, lives
        self.several = not RunFolder(place).spec.is_file()
        self.abort: Abort = lambda viewer: None
        self.shows: dict[str, Show] = {}
        self.faults: dict[str, str] = {}
        if self.several:
            self.scan()
            if not self.shows and not self.faults:
                raise FolderError(
                    f"{place}: neither a run nor a folder of runs (a run is a folder with run.toml)"
                )
        else:
            follower = Follower(RunFolder(place))
            follower.look()  # an error shows before anybody looks
            self.shows[place.name] = Show(follower, lives.get(place.name))

    def scan(self) -> None:
        """Find runs that are new under the folder."""
        for spec in sorted(self.place.glob("*/run.toml")):
            folder = RunFolder(spec.parent)
            if folder.path.name in self.shows or folder.path.name.startswith("."):
                continue
            try:
                follower = Follower(folder)
                follower.look()
            except UNREADABLE as error:
                self.faults[folder.path.name] = later(error)
                continue
            self.faults.pop(folder.path.name, None)
            self.shows[folder.path.name] = Show(follower, self.lives.get(folder.path.name))

    @property
    def viewers(self) -> int:
        return sum(show.viewers for show in self.shows.values())

    async def close(self) -> None:
        """Send each viewer the last version."""
        await asyncio.gather(*(show.close() for show in self.shows.values()))

    # --- answers

    def application(self) -> Starlette:
        at = "/run/{name}/" if self.several else "/"
        routes = [
            Route("/style.css", _file("style.css", "text/css")),
            Route("/metrics", self._metrics),
            Route("/live.js", _file("live.js", "text/javascript")),
            Route(at, self._page),
            Route(at + "events", self._events),
            Route(at + "report", self._report),
        ]
        if self.several:
            routes.append(Route("/", self._list))
        return Starlette(routes=routes, exception_handlers={404: _missing, 405: _missing})

    def _show(self, request: Request) -> Show:
        name = request.path_params.get("name") or next(iter(self.shows))
        if name not in self.shows:
            raise HTTPException(404)
        return self.shows[name]

    async def _page(self, request: Request) -> Response:
        show = self._show(request)
        await show.look()
        if not show.parts:
            return PlainTextResponse(
                f"This run cannot be read at the moment: {plain(show.fault, 1000)}\n", 503
            )
        return _html(self._rendered(show))

    def _rendered(self, show: Show) -> str:
        run = show.run
        said = run.spec.description
        return templates().get_template("live.html").render(
            title=f"{run.folder.path.name}: a run of duckweed",
            headline=run.folder.path.name,
            what=_what(run),
            description=[] if said is msgspec.UNSET else [x for x in said.split("\n") if x.strip()],
            parts=show.parts,
            axes=AXES,
            root="../../" if self.several else "",
            several=self.several,
            events="events",
            report="report" if run.folder.report.is_file() else None,
            run=show.version.decode(),
            version=version("duckweed"),
            made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        )  # fmt: skip

    async def _list(self, request: Request) -> Response:
        await asyncio.to_thread(self.scan)
        for show in self.shows.values():
            await show.look()
        runs: list[dict[str, Any]] = [
            {"name": name, "path": f"run/{name}/", "fault": plain(show.fault, 300), "what": _brief(show.run)}
            for name, show in self.shows.items()
        ]  # fmt: skip
        runs += [
            {"name": name, "path": "", "fault": plain(why, 300)}
            for name, why in self.faults.items()
        ]
        return _html(
            templates()
            .get_template("runs.html")
            .render(
                title="Runs of duckweed",
                runs=sorted(runs, key=lambda x: x["name"]),
                root="",
                version=version("duckweed"),
            )
        )

    async def _events(self, request: Request) -> Response:
        return _Events(self._show(request), self.abort)

    async def _metrics(self, request: Request) -> Response:
        if self.several:
            await asyncio.to_thread(self.scan)
        for show in self.shows.values():
            await show.look()
        return Response(exposition(self.shows), media_type=KIND, headers=_headers())

    async def _report(self, request: Request) -> Response:
        path = self._show(request).run.folder.report
        if not path.is_file():
            raise HTTPException(404)
        return _html(path.read_text("utf-8"), REPORT_POLICY)


def later(error: Exception) -> str:
    """Why a run cannot be shown, with what may be behind it."""
    return (
        f"{error}; if a later version of duckweed made this run, show it with that one (this is "
        f"{version('duckweed')})"
    )


def _what(run: Follower) -> str:
    """What is trained, in a sentence."""
    spec, facts = run.spec, run.genesis
    size = f" of {show_count(facts.parameters)} parameters" if facts else ""
    data = ", ".join(plain(x) for x in spec.data.paths[:5])
    return f"A model{size} ({plain(spec.model.source)}) is trained on {data}."


def _brief(run: Follower) -> str:
    count = run.spec.schedule.rounds
    over = "over" if run.done else f"{len(run.rounds) / count:.0%}"
    return f"{_what(run)} {len(run.rounds)} of {count} rounds, {over}."


# --- responses


def _html(text: str, policy: str = POLICY) -> HTMLResponse:
    return HTMLResponse(text, headers=_headers(policy))


def _headers(policy: str = POLICY) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


@cache
def _asset(name: str) -> str:
    return files("duckweed.pages").joinpath(f"templates/{name}").read_text("utf-8")


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        headers = _headers() | {"Cache-Control": "no-cache"}
        return Response(_asset(name), media_type=kind, headers=headers)

    return answer


async def _missing(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return PlainTextResponse("There is nothing at this address.\n", status, headers=_headers())


class _Events(Response):
    """Server-sent events to one viewer; one that does not read them within `STUCK` seconds is cut off."""

    def __init__(self, show: Show, abort: Abort) -> None:
        self.show, self.abort = show, abort

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers() | {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        raw = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        self.show.enter()
        telling = asyncio.create_task(self._tell(send))
        leaving = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait([telling, leaving], return_when=asyncio.FIRST_COMPLETED)
            if telling.done() and isinstance(telling.exception(), TimeoutError):
                self.abort(tuple(scope["client"]))
        finally:
            self.show.leave()
            for task in (telling, leaving):
                task.cancel()
            with contextlib.suppress(BaseException):
                await asyncio.gather(telling, leaving, return_exceptions=True)

    async def _tell(self, send: Send) -> None:
        async for data in self.show.news():
            await asyncio.wait_for(_send(send, data, True), STUCK)
        await asyncio.wait_for(_send(send, b"", False), STUCK)


async def _send(send: Send, data: bytes, more: bool) -> None:
    message: MutableMapping[str, Any] = {
        "type": "http.response.body",
        "body": data,
        "more_body": more,
    }
    await send(message)


async def _gone(receive: Receive) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()
