"""A finished run as a folder for the hub, and sent to a stand-in of the hub."""

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from fixtures import tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from duckweed import session
from duckweed.cli.push import write
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run.folder import FolderError, RunFolder
from duckweed.session import Session

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("push")
    spec = tiny.specification(
        base, {"rounds.count": 2, "rounds.peers": 1, "description": "To see whether it works."}
    )
    folder, ground, state = tiny.found(base, "run", spec)
    with pytest.raises(FolderError, match="no model yet"):
        write(folder, "anna/small")
    Simulation(folder, spec, founding.layout(folder), ground, state, "cpu").run()
    session.finish(Session(folder, spec, ground, "cpu", 1))
    return folder


def test_the_folder_opens_in_transformers_and_its_card_says_where_it_is_from(run):
    place = write(run, "anna/small")
    card = (place / "README.md").read_text()
    for part in (
        "# anna/small",
        "To see whether it works.",
        "text.txt",
        "bits per byte",
        "[rounds]",
    ):
        assert part in card
    ledger = [json.loads(line) for line in (place / "ledger.jsonl").read_text().splitlines()]
    assert ledger[-1]["hash"] in card
    assert not [x for x in place.rglob("*") if x.suffix == ".key" or x.name == "secret"]
    AutoModelForCausalLM.from_pretrained(place)
    dataset = founding.reopen(run, session.specs.load(run.spec)).dataset
    ids = dataset.held_out[:500].tolist()
    text = dataset.tokenizer.decode(ids)
    assert AutoTokenizer.from_pretrained(place)(text)["input_ids"] == dataset.tokenizer.encode([text])[0].tolist()  # fmt: skip


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload of small files needs."""

    received: ClassVar[dict[str, bytes]] = {}

    def do_POST(self):
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else self._chunks()
        if "/preupload/" in self.path:
            files = [{"path": x["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for x in json.loads(body)["files"]]  # fmt: skip
            return self._answer({"files": files})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    said = line["value"]
                    self.received[said["path"]] = base64.b64decode(said["content"])
            return self._answer({"success": True, "commitOid": "0" * 40, "commitUrl": f"http://{self.headers['Host']}/anna/small/commit/" + "0" * 40})  # fmt: skip
        return self._answer({"url": f"http://{self.headers['Host']}/anna/small"})

    def do_GET(self):
        self._answer({"id": "anna/small", "sha": "0" * 40, "siblings": []})

    def _chunks(self):
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        return found

    def _answer(self, facts):
        data = json.dumps(facts).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def push(folder: RunFolder, *more, **env):
    return subprocess.run(
        [sys.executable, "-m", "duckweed", "push", str(folder.path), "anna/small", *more],
        env=os.environ | {"HF_HUB_OFFLINE": "0", "COLUMNS": "200", "HF_HOME": str(folder.path / "hf")} | env,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_a_hub_receives_the_files_and_without_a_token_nothing_is_sent(run):
    done = push(run)
    assert done.returncode == 1
    assert "no token for the hub" in done.stderr
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{hub.server_port}"
    done = push(run, HF_ENDPOINT="http://127.0.0.1:9", HF_TOKEN="hf_x")  # where nobody answers
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr
    done = push(run, HF_ENDPOINT=url, HF_TOKEN="hf_x")
    hub.shutdown()
    assert done.returncode == 0, done.stderr
    place = run.path / "push"
    sent = {str(x.relative_to(place)): x.read_bytes() for x in place.rglob("*") if x.is_file()}
    assert Hub.received == sent
    shutil.rmtree(place)
