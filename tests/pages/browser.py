"""A headless Chromium that is driven over its debugging protocol: it can wait, which --dump-dom cannot."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--hide-scrollbars", "--remote-debugging-port=0"]  # fmt: skip


class Tab:
    """One tab; `faults` are the errors and warnings of its console."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.faults: list[str] = []
        for what in ("Page", "Runtime", "Log"):
            self.call(f"{what}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            told = json.loads(self._socket.recv(timeout=30))
            if told.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.faults.append(json.dumps(told["params"]))
            if told.get("method") == "Runtime.consoleAPICalled" and told["params"]["type"] != "log":
                self.faults.append(json.dumps(told["params"]))
            if told.get("id") == self._number:
                return told.get("result", {})

    def run(self, script: str) -> Any:
        """The value of an expression."""
        told = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return told["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> None:
        """Wait for an expression to be true."""
        closes = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < closes, script
            time.sleep(0.1)

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """The size of the screen, and its colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path) -> None:
        told = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))


@contextmanager
def browser(profile: Path):
    """A tab of a new browser; the test is skipped where there is none."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium here: the page was not looked at in a browser")
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = profile / "DevToolsActivePort"
        closes = time.monotonic() + 60
        while not (port.is_file() and port.read_text().count("\n")):
            assert process.poll() is None
            assert time.monotonic() < closes
            time.sleep(0.1)
        at = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        with urllib.request.urlopen(at, timeout=30) as told:
            tabs = json.load(told)
        where = next(x["webSocketDebuggerUrl"] for x in tabs if x["type"] == "page")
        with connect(where, max_size=None) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait(30)
