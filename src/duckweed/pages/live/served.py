"""The page of a run, or of the runs of a family, that this same process serves: the words of their coordinators
are passed on to it."""

import contextlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from duckweed.pages.live.sections import Live, Terms
from duckweed.pages.live.server import ANY, PageError, address, serving
from duckweed.pages.live.site import Site
from duckweed.round.sampler import Sampler
from duckweed.run.events import Event, Following, Progress, RoundClosed
from duckweed.run.folder import RunFolder

LAST_TEXT = 30.0  # seconds for the last text at the end of a run
PAGE = "page"  # in local.json: where the page was served last


class Served:
    """Takes the events of a run for its page."""

    def __init__(self, url: str, site: Site, live: Live) -> None:
        self.url, self.site, self._live = url, site, live
        self._sampler: Sampler | None = None

    def invite(self, terms: Terms) -> None:
        """How to take part, from now on."""
        self._live.terms = terms

    def let_write(self, sampler: Sampler) -> None:
        """Let the model write for the page, from now on."""
        self._sampler = sampler
        sampler.start()

    def end(self, seconds: float = LAST_TEXT) -> None:
        """Let the model write its last text, and wait for that so long."""
        if self._sampler:
            self._sampler.end(seconds)

    def seen(self, events: Generator[Event, None, None]) -> Generator[Event, None, None]:
        """The same events, noted for the page."""
        with contextlib.closing(events):
            for event in events:
                self.take(event)
                yield event

    def take(self, event: Event) -> None:
        """Note an event."""
        if isinstance(event, Progress):
            self._live.progress, self._live.following = event, False
        elif isinstance(event, Following):
            self._live.following = True
        elif isinstance(event, RoundClosed) and self._sampler:
            self._sampler.news()


@contextlib.contextmanager
def served(folder: RunFolder, at: str, sampler: Sampler | None) -> Iterator[Served]:
    """The page while the block runs. at: HOST:PORT, or "" for where it was the last time, else any free
    port of 127.0.0.1. sampler: lets the model write, not started. Raises PageError."""
    live = Live(Terms(""))
    site = Site(folder.path, {folder.path.name: live})
    with _again(site, folder, at) as url:
        one = Served(url, site, live)
        if sampler:
            one.let_write(sampler)
        try:
            yield one
        finally:
            one.end()


@contextlib.contextmanager
def served_together(
    place: Path, names: Sequence[str], kept: RunFolder, at: str
) -> Iterator[dict[str, Served]]:
    """The page of several runs, by name, while the block runs; one may begin later. place: the folder that holds
    theirs; kept: the run in which it is noted where the page was; at: as of `served`. Raises PageError."""
    lives = {name: Live(Terms("")) for name in names}
    site = Site(place, lives)
    with _again(site, kept, at) as url:
        all_ = {name: Served(url, site, live) for name, live in lives.items()}
        try:
            yield all_
        finally:
            for seconds in (0.0, LAST_TEXT):  # all are told before one is waited for
                for one in all_.values():
                    one.end(seconds)


@contextlib.contextmanager
def _again(site: Site, folder: RunFolder, at: str) -> Iterator[str]:
    """Where it was, so that viewers of the last time see it go on; elsewhere if that is taken by now."""
    with contextlib.ExitStack() as stack:
        kept = folder.local().get(PAGE)
        if at or not isinstance(kept, str):
            url = stack.enter_context(serving(site, at or ANY))
        else:
            try:
                url = stack.enter_context(serving(site, kept))
            except PageError:
                url = stack.enter_context(serving(site, ANY))
        host = address(at)[0] if at else "127.0.0.1"
        folder.note({PAGE: f"{host}:{url.rstrip('/').rpartition(':')[2]}"})
        yield url
