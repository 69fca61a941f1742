"""A mirror of a run: a folder, or a bucket of an S3-compatible server on this machine."""

import asyncio
import threading
import time
from contextlib import closing

import pytest
from fixtures import tiny

from duckweed import participation, session
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import Identity, load_or_create
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run import state as states
from duckweed.run.folder import RunFolder
from duckweed.swarm.blobs import mirror as mirrors
from duckweed.swarm.blobs import mirroring
from duckweed.swarm.blobs.mirror import Mirror, MirrorError, Sender
from duckweed.swarm.blobs.mirroring import mirrored
from duckweed.swarm.peer.from_mirror import FromMirror
from duckweed.swarm.peer.join import join
from duckweed.swarm.protocol.invitation import Invitation, publish
from duckweed.swarm.protocol.ledger import decoded
from duckweed.volunteer.peer_home import PeerHome

NOBODY = ("127.0.0.1:9",)  # the port where nobody answers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that is over, of which no process is left."""
    place = tmp_path_factory.mktemp("run")
    spec = tiny.specification(place, {"rounds.count": 3, "rounds.peers": 2, "rounds.checkpoint": 2})
    folder, ground, state = tiny.found(place, "run", spec)
    Simulation(folder, spec, founding.layout(folder), ground, state, "cpu").run()
    return folder, spec


@pytest.fixture(scope="module")
def server():
    """An S3-compatible server, and a client that makes buckets there."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    it = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    it.start()
    host, port = it.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "anna",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        yield boto3.client("s3")
    it.stop()


def invitation(folder, spec, coordinator=None):
    key = coordinator or load_or_create(folder.coordinator_key).id
    return Invitation(spec.identity, key, NOBODY, "secret")


def taken(url, folder, spec, home, said, coordinator=None):
    home = RunFolder(home)
    for part in (home.states, home.blobs):
        part.mkdir(parents=True, exist_ok=True)
    asked = invitation(folder, spec, coordinator)
    return home, FromMirror(Mirror(url), asked, home, Identity(b"p" * 32), said.append)


def everything(url, folder, spec, home):
    """Ledger and newest state, as a newcomer has them whom nobody answers."""
    home, source = taken(url, folder, spec, home, [])
    source.ledger()
    assert source.spec().identity == spec.identity
    state = source.newest(spec, founding.layout(folder))
    with closing(Ledger(home.ledger)) as copy, closing(Ledger(folder.ledger)) as ledger:
        assert copy.head == ledger.head
        assert ledger.agreed_states()[state.round] == state.hash()
    return state


def test_a_folder_gets_what_is_new_and_leads_to_the_last_state(run, tmp_path, monkeypatch):
    folder, spec = run
    monkeypatch.setattr(mirrors, "PART", 4000)  # several parts
    url = str(tmp_path / "mirror")
    sender = Sender(Mirror(url), folder)
    assert sender.look() > 3
    assert sender.look() == 0
    assert Sender(Mirror(url), folder).look() <= 2  # another process: only the end of the ledger
    assert len(Mirror(url).index().ledger) > 1
    assert everything(url, folder, spec, tmp_path / "home").round == 3


def test_a_bucket_does_as_well(run, tmp_path, server):
    folder, spec = run
    server.create_bucket(Bucket="pond")
    with mirrored(folder, "s3://pond/run", print):
        pass
    assert everything("s3://pond/run", folder, spec, tmp_path / "home").round == 3


def test_the_updates_lead_on_where_the_mirror_has_the_first_state_only(run, tmp_path):
    folder, spec = run
    mirror = Mirror(str(tmp_path / "mirror"))
    Sender(mirror, folder).look()
    for name in mirror.names("states") - {folder.state(0).name}:
        (tmp_path / "mirror" / "states" / name).unlink()
    assert everything(mirror.url, folder, spec, tmp_path / "home").round == 3


def test_what_is_wrong_in_a_mirror_is_not_taken(run, tmp_path):
    folder, spec = run
    mirror, place = Mirror(str(tmp_path / "mirror")), tmp_path / "mirror"
    Sender(mirror, folder).look()
    layout, said = founding.layout(folder), []
    newest = place / "states" / folder.state(3).name
    newest.write_bytes((place / "states" / folder.state(0).name).read_bytes())
    home, source = taken(mirror.url, folder, spec, tmp_path / "home", said)
    source.ledger()
    with closing(Ledger(home.ledger)) as ledger:
        agreed = ledger.agreed_states()
    assert source.state(layout, agreed) != 3
    assert any("not the state that the peers agreed on" in x for x in said)
    newest.write_bytes(b"x" * (states.file_limit(layout) + 1))
    source.state(layout, agreed)
    assert any("larger than it may be" in x for x in said)

    def refused(words, **changes):
        _, other = taken(mirror.url, folder, spec, tmp_path / f"home {words}", [], **changes)
        with pytest.raises(MirrorError, match=words):
            other.ledger()

    refused("begun by somebody else", coordinator="ab" * 32)
    part = next((place / "ledger").iterdir())
    good = part.read_bytes()
    part.write_bytes(good[:-5])
    refused("cannot be read")
    rows = decoded(good)
    part.write_bytes(mirrors.encoded([*rows[:2], *rows[3:]]))
    refused("does not hold")
    (place / "index.json").write_text("{}")
    refused("not that of a mirror")
    (place / "index.json").unlink()
    refused("nothing is there yet")


def test_a_url_that_cannot_be_used_is_told_before_the_run():
    for url, words in {"s3://me:secret@pond/run": "password", "weather://x": "weather"}.items():
        with pytest.raises(MirrorError, match=words):
            Mirror(url)


def test_another_run_is_not_overwritten(run, tmp_path):
    folder, _ = run
    url = str(tmp_path / "mirror")
    Sender(Mirror(url), folder).look()
    other = tiny.specification(tmp_path, {"rounds.count": 2, "seed": 5})
    second, _, _ = tiny.found(tmp_path, "second", other)
    with pytest.raises(MirrorError, match="another run"):
        Sender(Mirror(url), second).look()


def test_a_bucket_that_is_missing_or_read_only_is_told_once_and_used_when_it_is_there(
    run, tmp_path, server, monkeypatch
):
    folder, _ = run
    monkeypatch.setattr(mirroring, "MIRROR_RETRY", 0.2)
    said = []
    with mirrored(folder, "s3://dry/run", said.append):
        until(lambda: said)
        assert "the bucket or folder is not there" in said[0]
        assert "The run goes on" in said[0]
        server.create_bucket(Bucket="dry")
        until(lambda: "it has all of the run again" in said[-1])
    assert len(said) == 2
    denied = (
        '{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", '
        '"Action": "s3:PutObject", "Resource": "arn:aws:s3:::dry/*"}]}'
    )
    server.put_bucket_policy(Bucket="dry", Policy=denied)
    told = []
    with mirrored(folder, "s3://dry/elsewhere", told.append):
        until(lambda: told)
    assert "cannot be written with the credentials" in told[0]


def test_a_mirror_that_hangs_holds_nothing_up(run, monkeypatch, tmp_path):
    folder, _ = run
    hanging = threading.Event()
    monkeypatch.setattr(Mirror, "write", lambda *_: hanging.wait())
    monkeypatch.setattr(mirroring, "MIRROR_LAST", 0.1)
    said = []
    with mirrored(folder, str(tmp_path / "mirror"), said.append) as kept:
        for _ in range(1000):
            kept.news()
    assert "it is slow" in said[0]
    hanging.set()


@pytest.mark.slow
def test_a_newcomer_takes_home_a_run_of_which_nobody_is_left(run, tmp_path, monkeypatch):
    folder, spec = run
    monkeypatch.chdir(folder.path.parents[1])  # its text and configuration lie here
    url = str(tmp_path / "mirror")
    Sender(Mirror(url), folder).look()
    asked = invitation(folder, spec)
    publish(folder, asked)
    said = []
    home = PeerHome.of(str(asked), tmp_path / "home")
    reason = asyncio.run(
        join(asked, home.home, ("text.txt",), "cpu", said.append, config="config.json", mirror=url)
    )
    assert reason == "all rounds are done"
    lines = participation.take_home(home, "cpu", said.append)
    assert any("its last state is the one that the peers agreed on" in x for x in lines)
    assert session.generate(home.home, "pond", 4, 0.0, 0, "cpu").startswith("pond")


def until(true, seconds=30):
    closes = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < closes
        time.sleep(0.05)
