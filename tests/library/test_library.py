"""`import duckweed`: the same runs as the commands', and the same files."""

import asyncio
import subprocess
import sys

import psutil
import pytest
import torch
from fixtures import commands, tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

import duckweed
from duckweed import session
from duckweed.ledger.entries import GenesisEntry, RoundEntry
from duckweed.process import local_run
from duckweed.process.local_run import RunFailed
from duckweed.run import toml
from duckweed.run.events import RoundClosed
from duckweed.run.folder import FolderError
from duckweed.run.spec import RunSpec, SpecError

OWN_WIRE = __file__.replace("tests/library/test_library.py", "examples/own_wire.py")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="module")
def spec(base):
    return tiny.specification(base, {"rounds.patience": 60.0})


@pytest.fixture(scope="module")
def done(base, spec):
    """A simulated run to its end, and its rounds."""
    training = duckweed.simulate(spec, base=base, runs=base / "runs", name="whole")
    return training, list(training)


def test_importing_it_is_light():
    code = "import sys, duckweed; duckweed.simulate; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert {"train", "simulate", "open", "join"} <= set(dir(duckweed))
    with pytest.raises(AttributeError, match="'trian'"):
        duckweed.trian  # noqa: B018


def test_a_specification_is_taken_in_every_form(tmp_path):
    wanted = duckweed.specification({"rounds.count": 5, "inner.steps": 30})
    text = toml.write(wanted)
    (tmp_path / "run.toml").write_text(text)
    for given in (wanted, text, tmp_path / "run.toml", str(tmp_path / "run.toml")):
        assert duckweed.specification(given) == wanted
    assert duckweed.specification(RunSpec(), {"rounds.count": 5}).rounds.count == 5
    with pytest.raises(SpecError, match="did you mean 'steps'"):
        duckweed.specification({"inner.step": 3})
    with pytest.raises(SpecError, match="no such file"):
        duckweed.specification("missing.toml")


def test_given_weights_bring_their_own_tokenizer_as_for_the_command(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "tokenizer.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    given = {"model.source": "m", "model.weights": "given"}
    assert duckweed.specification(given).data.tokenizer == "m"
    assert duckweed.specification("seed = 1", given).data.tokenizer == "m"
    assert duckweed.specification({**given, "data.tokenizer": "bytes"}).data.tokenizer == "bytes"
    named = "[data]\ntokenizer = 'bytes'"
    assert duckweed.specification(named, given).data.tokenizer == "bytes"


def test_a_time_is_expected_where_it_is_known(done):
    run = session.reopen(done[0].run.folder, "cpu", 1)
    alone = session.round_seconds(run, run.spec.rounds.peers, simulated=True)
    assert 0 < alone < 100
    assert session.round_seconds(run, 1, simulated=False) is None  # others train elsewhere


def test_rounds_come_as_events_and_the_model_at_the_end(done, base):
    training, rounds = done
    assert all(isinstance(one, RoundClosed) for one in rounds)
    assert [one.round for one in rounds] == [0, 1, 2]
    assert training.summary.rounds == 3
    assert training.run.generate("the pond", tokens=5).startswith("the pond")
    told = []
    text = training.run.generate(
        "the pond", tokens=40, temperature=1.0, top_p=0.8, write=told.append
    )
    assert "".join(told) == text
    assert sum(map(bool, told)) > 1  # as it is written, not at the end
    found = training.run.evaluate(base / "text.txt")
    assert 0 < found.bits_per_byte < 8
    assert found.nats < rounds[0].loss
    part = training.run.evaluate(base / "text.txt", limit=2000)
    assert (part.text_bytes, part.tokens < found.tokens) == (2000, True)


def test_what_is_generated_with_kept_keys_and_values_is_what_the_whole_text_gives(done):
    run = done[0].run
    text = run.generate("the pond", tokens=12, temperature=0)
    network = AutoModelForCausalLM.from_pretrained(run.model)
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    ids = tokenizer("the pond", return_tensors="pt", add_special_tokens=False)["input_ids"]
    for _ in range(12):
        with torch.no_grad():
            likeliest = network(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)
        ids = torch.cat([ids, likeliest], 1)
    assert text == tokenizer.decode(ids[0], skip_special_tokens=True)


def test_the_same_seed_writes_the_same_text_and_few_likely_tokens_the_likeliest(done):
    run = done[0].run

    def said(**how):
        return run.generate("the", tokens=30, temperature=1.5, **how)

    assert said(seed=1) == said(seed=1) != said(seed=2)
    assert said(top_p=1e-6) == run.generate("the", tokens=30, temperature=0)


def test_a_finished_run_is_opened(done, base, spec):
    run = duckweed.open(base / "runs" / "whole")
    assert (run.spec, run.finished) == (spec, True)
    assert run.model == run.path / "model"
    assert isinstance(run.ledger()[0].body, GenesisEntry)
    assert sum(isinstance(entry.body, RoundEntry) for entry in run.ledger()) == 3
    losses = run.losses()
    assert [n for n, _ in losses] == [0, 1, 2, 3]
    assert losses[-1][1] < losses[0][1]
    with pytest.raises(FolderError, match="no run there"):
        duckweed.open(base / "nowhere")


def test_a_simulation_left_early_stands_still_and_goes_on_to_the_same_end(done, base, spec):
    training = duckweed.simulate(spec, base=base, runs=base / "runs", name="left")
    for closed in training:
        assert closed.round == 0
        break
    assert len(training.run.history().rounds) == 1
    assert not training.run.finished
    with pytest.raises(FolderError, match="not finished"):
        training.run.generate("x")
    again = duckweed.open(base / "runs" / "left").simulate()
    assert [closed.round for closed in again] == [1, 2]
    assert again.run.history().state == done[0].run.history().state
    assert list(again) == []  # it has ended: nothing is trained again


def test_it_works_inside_an_event_loop_as_in_a_notebook(base, spec):
    async def cell():
        one = {"rounds.count": 1, "inner.warmup": 1}
        return list(duckweed.simulate(spec, one, base=base, runs=base / "runs", name="notebook"))

    assert len(asyncio.run(cell())) == 1


def test_links_that_make_no_sense_leave_no_folder(base, spec):
    with pytest.raises(ValueError, match="UP/DOWN"):
        duckweed.simulate(spec, links="fast", base=base, runs=base / "none")
    assert not (base / "none").exists()


@pytest.fixture
def _one_fork_server(monkeypatch):
    monkeypatch.setattr(local_run, "ForkServer", lambda environment: commands.lent())


@pytest.mark.slow
@pytest.mark.usefixtures("_one_fork_server")
def test_processes_end_when_the_iteration_is_left_and_the_command_goes_on(done, base, spec):
    with duckweed.train(spec, base=base, runs=base / "runs", name="processes") as training:
        kept = iter(training)  # as a traceback in a notebook keeps it
        assert next(kept).round == 0
        processes = [int(path.read_text()) for path in training.run.path.glob("*.pid")]
        assert len(processes) == 4
    assert not any(map(psutil.pid_exists, processes))
    words = ["train", "--resume", str(training.run.path), "--device", "cpu"]
    result = commands.run(words, base)
    assert result.returncode == 0, result.stdout + result.stderr
    assert training.run.finished
    assert training.run.history().state == done[0].run.history().state


@pytest.mark.slow
def test_a_plugin_is_loaded_by_every_process_and_found_again(base, spec):
    wire = {"wire.kind": "sign", "rounds.count": 2}
    code = f"""
import duckweed
spec = duckweed.specification({str(base / "run.toml")!r})
training = duckweed.train(spec, {wire!r}, base={str(base)!r}, runs={str(base / "runs")!r},
                          name="signs", plugins=[{OWN_WIRE!r}])
print(sum(isinstance(e, duckweed.run.events.PeerEnded) for e in training.events()))
"""
    (base / "run.toml").write_text(toml.write(spec))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "3"), run.stderr
    for words in (["show"], ["evaluate", "--data", str(base / "text.txt")]):
        told = commands.run([*words, str(base / "runs" / "signs")], base)
        assert told.returncode == 0, told.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("_one_fork_server")
def test_the_error_of_a_process_is_raised(base, spec):
    training = duckweed.train(spec, base=base, runs=base / "runs", name="broken")
    training.run.folder.spec.write_text("[wire]\nkind = 'theirs'\n")
    with pytest.raises(RunFailed, match=r"wire\.kind = 'theirs' is not known here"):
        list(training)
