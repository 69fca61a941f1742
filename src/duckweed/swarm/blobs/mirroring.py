"""Keeps a mirror up to date beside a run: a thread that looks into the run's folder, and can neither hold the
run up nor end it."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

from duckweed.ledger.ledger import LedgerError
from duckweed.net.timeouts import MIRROR_LAST, MIRROR_LOOK, MIRROR_RETRY, MIRROR_STOPPED
from duckweed.run.folder import RunFolder
from duckweed.swarm.blobs.mirror import Mirror, MirrorError, Sender

log = logging.getLogger(__name__)


class Mirroring:
    """The thread. What is not yet sent is told by comparing the folder with the mirror, so that nothing
    queues up where the mirror is slow or away."""

    def __init__(self, mirror: Mirror, folder: RunFolder, say: Callable[[str], None]) -> None:
        self._mirror, self._sender, self._say = mirror, Sender(mirror, folder), say
        self._wake, self._ending, self._fault = threading.Event(), False, ""
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def news(self) -> None:
        """There is something to send."""
        if not self._fault:
            self._wake.set()

    def start(self) -> None:
        self._thread.start()

    def end(self, patience: float) -> None:
        """Send what is left, for at most so many seconds."""
        self._ending = True
        self._wake.set()
        self._thread.join(patience)
        if self._thread.is_alive():
            self._say(
                f"mirror {self._mirror.url}: it is slow, and does not have all of the run. What is missing is sent "
                "when the same run is started again with this mirror"
            )

    def _run(self) -> None:
        while True:
            self._wake.clear()
            ending = self._ending
            self._look()
            if ending:
                return
            if not self._ending:
                self._wake.wait(MIRROR_RETRY if self._fault else MIRROR_LOOK)

    def _look(self) -> None:
        try:
            self._sender.look()
        except (MirrorError, LedgerError, OSError) as error:
            log.warning("%s", error)
            if (fault := str(error)) != self._fault:
                self._say(f"{fault}. The run goes on; it is tried again each minute")
            self._fault = fault
        except Exception:  # a fault of ours must not end what is no part of the run
            log.exception("the mirror")
        else:
            if self._fault:
                self._say(f"mirror {self._mirror.url}: it has all of the run again")
            self._fault = ""


@contextlib.contextmanager
def mirrored(
    folder: RunFolder, url: str | None, say: Callable[[str], None]
) -> Iterator[Mirroring | None]:
    """Keep a mirror while the block runs; None: there is none. Raises MirrorError for a URL that cannot be
    used."""
    if url is None:
        yield None
        return
    kept = Mirroring(Mirror(url), folder, say)
    kept.start()
    try:
        yield kept
    except BaseException:
        kept.end(MIRROR_STOPPED)
        raise
    kept.end(MIRROR_LAST)
