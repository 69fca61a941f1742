"""`duckweed relay`: pass on packets of peers that cannot reach each other."""

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Annotated

import typer

from duckweed.cli.common.console import PlainConsole
from duckweed.cli.common.errors import fail, plain_errors
from duckweed.run.units import show_size

if TYPE_CHECKING:
    from duckweed.net.relay import Relay

console = PlainConsole()
TELL = 600.0  # seconds between words about what was passed on


def register(app: typer.Typer) -> None:
    app.command()(relay)


@plain_errors
def relay(
    listen: Annotated[str, typer.Option(help="Address and TCP port.")] = "0.0.0.0:4433",
    limit: Annotated[str, typer.Option(help="At most so fast for each who sends.")] = "100mbit",
) -> None:
    """Pass on packets between peers that cannot reach each other directly.

    It holds no part of any run and can read nothing: packets are encrypted from peer to peer. It
    needs an address that all can reach. `duckweed serve` runs one of its own beside the coordinator,
    for its run alone; this one serves whoever knows its URL, and goes into invitations by
    `duckweed serve --relay URL`.
    """
    from duckweed.net.relay import Relay
    from duckweed.run import units

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        fail(f"--listen {listen}: not of the form ADDRESS:PORT, such as 0.0.0.0:4433")
    rate = units.rate(limit, "--limit").value / 8
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(Relay(rate=rate), host, int(port)))


async def _serve(relay: "Relay", host: str, port: int) -> None:
    from duckweed.net.framing import LinkError

    try:
        port, _ = await relay.start(host, port)
    except LinkError as error:
        fail(f"{error}; choose another with --listen ADDRESS:PORT")
    console.print(
        f"A relay at TCP port {port}. For runs: duckweed serve --relay "
        f"http://ADDRESS-OF-THIS-MACHINE:{port}. Ctrl-C ends it.",
        soft_wrap=True,
    )
    while True:
        await asyncio.sleep(TELL)
        console.print(
            f"{time.strftime('%H:%M')} {relay.clients} peers here; passed on {relay.packets:,} "
            f"packets, {show_size(relay.bytes)}; dropped {relay.dropped:,}, refused {relay.refused:,}"
        )
