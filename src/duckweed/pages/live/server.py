"""Serves a site from a thread of this process, apart from the run's own processes."""

import asyncio
import contextlib
import errno
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from duckweed.pages.live.site import Site

ANY = "127.0.0.1:0"
CONNECTIONS = 1000  # at the same time; more are told to come later
BUFFER = 128 << 10  # bytes that the system keeps for a viewer that does not read
ASKED = 30.0  # seconds in which a connection must have asked for something
CLOSES = 3  # seconds in which viewers read the last version


class PageError(OSError):
    """The page cannot be served."""


def address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`. Raises PageError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise PageError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8080 or 0.0.0.0:8080")
    return host.strip("[]") or "0.0.0.0", int(port)


@contextlib.contextmanager
def serving(site: Site, at: str) -> Iterator[str]:
    """Serve the site at HOST:PORT (port 0: any) while the block runs; gives its URL. Raises PageError."""
    host, port = address(at)
    with contextlib.closing(_listen(host, port)) as listening:
        server = _Server(site)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True, name="page")
        thread.start()
        try:
            yield url(host, listening.getsockname()[1])
        finally:
            server.end()
            thread.join(2 * CLOSES)


def check(at: str) -> None:
    """Raises PageError where nothing can be served at HOST:PORT now."""
    _listen(*address(at)).close()


def url(host: str, port: int) -> str:
    """What a browser on this machine opens."""
    name = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
    except OSError as error:
        raise PageError(f"{host}: no address of this machine ({error})") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        listening.bind(where)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise PageError(_words(error, host, port)) from error
    return listening


def _words(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is taken by another program; give another one, or {host}:0 for any "
            "that is free"
        )
    if error.errno == errno.EACCES:
        return f"port {port} may not be used by this user; take one from 1024 on"
    return f"the page cannot be served at {host}:{port}: {error}"


class _Server(uvicorn.Server):
    def __init__(self, site: Site) -> None:
        self._site = site
        viewers: dict[tuple[str, int], asyncio.Transport] = {}
        super().__init__(
            uvicorn.Config(
                site.application(), http=_protocol(viewers), ws="none", loop="asyncio", lifespan="off",
                log_config=None, access_log=False, server_header=False,
                limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=CLOSES,
            )
        )  # fmt: skip

        def abort(viewer: tuple[str, int]) -> None:
            if transport := viewers.get(viewer):
                transport.abort()

        site.abort = abort

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._site.close(), CLOSES)
        await super().shutdown(sockets)

    def end(self) -> None:
        """Send viewers the last version, and end."""
        self.should_exit = True


def _protocol(viewers: dict[tuple[str, int], asyncio.Transport]) -> type[H11Protocol]:
    """HTTP connections that are noted in `viewers`, so that one can be cut off; one that never asks for
    anything is closed."""

    class Protocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if self.client:
                viewers[self.client] = transport
            self.loop.call_later(ASKED, self._idle)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.client:
                viewers.pop(self.client, None)
            super().connection_lost(exc)

        def _idle(self) -> None:
            if self.cycle is None:
                self.transport.abort()

    return Protocol
