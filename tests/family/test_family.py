"""A family of the tiniest runs, simulated to its end: what its paths begin with, learn, and are good for."""

import shutil

import numpy as np
import pytest
import torch
from fixtures import tiny
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import duckweed
from duckweed import session
from duckweed.cli import app
from duckweed.family import begin, harvest, routing
from duckweed.family import folder as families
from duckweed.family import train as training
from duckweed.learn.data import dataset as datasets
from duckweed.learn.data.reading import DataError
from duckweed.learn.fit import Machine
from duckweed.learn.model.generation import Mixed, Mixture
from duckweed.ledger.entries import StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.round import export, founding
from duckweed.run import spec as specs
from duckweed.run import state as states
from duckweed.run import toml
from duckweed.run.events import FinalLoss, RoundClosed
from duckweed.run.folder import Destination, FolderError, RunFolder
from duckweed.run.spec import SpecError
from duckweed.swarm.protocol.invitation import Invitation, publish

COUNT, PREFIX = 2, 8
CHANGES = {
    "paths.count": COUNT, "paths.prefix": PREFIX, "paths.common": 0.34, "rounds.patience": 60.0,
    "inner.precision": "fp32",  # as transformers computes when it reads what was exported
}  # fmt: skip
NAMES = ["common", "path-0", "path-1"]


def quiet(text):
    pass


def found(base, name, changes=None):
    spec = tiny.specification(base, CHANGES | (changes or {}))
    return begin.found(
        spec, Destination(base, base / "runs", name), Machine("cpu"), (), quiet, quiet
    )


def hashes(folder):
    """Last agreed state of each run."""
    last = {}
    for name in NAMES:
        ledger = Ledger(folder.path / name / "ledger.db")
        last[name] = [entry.body.hash for entry in ledger.entries(StateEntry)][-1]
        ledger.close()
    return last


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("family")


@pytest.fixture(scope="module")
def done(base):
    """A family that was trained and measured, and what was told."""
    family = found(base, "whole")
    told = list(training.simulate(family, quiet))
    return family, told, harvest.finish(family, quiet)


def test_all_rounds_of_all_runs_are_trained_the_common_start_first(done):
    family, told, _ = done
    closed = [x.run for x in told if isinstance(x.event, RoundClosed)]
    assert closed == ["common", "path-0", "path-0", "path-1", "path-1"]
    assert training.trained(family)
    accepted = [len(x.event.accepted) for x in told if isinstance(x.event, RoundClosed)]
    assert accepted == [3, 2, 2, 1, 1]  # three peers, dealt to two paths


def test_a_path_begins_with_what_the_common_start_ended_with(done):
    family, _, _ = done
    first = family.common
    end = export.latest_state(first.folder, first.spec)
    layout = founding.layout(first.folder)
    for path in range(COUNT):
        run = family.of_path(path)
        state = states.load(run.folder.state(0), layout)
        assert state.round == 0
        np.testing.assert_array_equal(state.weights, end.weights)
        np.testing.assert_array_equal(state.momentum, end.momentum)
        assert np.abs(state.momentum).max() > 0


def test_stopped_in_each_phase_and_resumed_it_is_as_if_it_had_not_been_stopped(base, done):
    family, stops = found(base, "stopped"), 0
    while not training.trained(family):
        story = training.simulate(family, quiet)
        for told in story:
            if isinstance(told.event, RoundClosed):
                break  # after each round
        story.close()
        stops += 1
        family = begin.reopen(family.folder, "cpu", 1)
    assert stops >= 5
    assert hashes(family.folder) == hashes(done[0].folder)


def test_an_exported_path_has_the_loss_of_its_run(done):
    family, _, figures = done
    for path in range(COUNT):
        run = family.of_path(path)
        model = AutoModelForCausalLM.from_pretrained(run.folder.model)
        windows = np.concatenate(list(datasets.held_out_batches(run.ground.dataset, 32)))
        tokens = torch.from_numpy(windows)
        with torch.no_grad():
            logits = model(input_ids=tokens[:, :-1]).logits[:, PREFIX - 1 :]
        wanted = tokens[:, PREFIX:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()).item()
        (final,) = run.folder.records(FinalLoss)
        assert final.tokens == wanted.numel()  # the prefix is not measured
        assert final.held_out == pytest.approx(loss, abs=1e-4)
        assert figures.paths[path].after == final.held_out


def test_the_figures_weigh_each_path_by_its_held_out_text(done):
    family, _, figures = done
    assert figures.total == COUNT * figures.parameters
    nats = sum(path.after * path.held_out for path in figures.paths)
    text = sum(path.bytes_per_token * path.held_out for path in figures.paths)
    assert figures.bits[1] == pytest.approx(nats / text / np.log(2))
    assert figures.bits[1] < figures.bits[0]  # it learns
    assert harvest.read(family.folder) == figures
    page = family.folder.report.read_text()
    assert "path-1" in page
    assert "none as good as one of their total size" in page


def test_before_is_the_common_model_on_the_text_of_the_path(done):
    family, _, figures = done
    model = AutoModelForCausalLM.from_pretrained(family.common.folder.model)
    run = family.of_path(1)
    tokens = torch.from_numpy(
        np.concatenate(list(datasets.held_out_batches(run.ground.dataset, 32)))
    )
    with torch.no_grad():
        logits = model(input_ids=tokens[:, :-1]).logits[:, PREFIX - 1 :]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, PREFIX:].flatten())
    assert figures.paths[1].before == pytest.approx(loss.item(), abs=1e-4)


def test_a_text_is_measured_under_the_paths_that_it_is_routed_to(done, base):
    family, _, _ = done
    folder, text = family.folder, base / "other.txt"
    text.write_text(tiny.text(900)[::-1])
    found_ = routing.evaluate(folder, [str(text)], "text", "utf-8", "cpu", quiet)
    ids = np.frombuffer(text.read_bytes() + b"\0", np.uint8).astype(np.int64)
    count = (len(ids) - 1) // 32
    windows = np.stack([ids[n * 32 : n * 32 + 33] for n in range(count)])
    paths, nats = folder.read_router().paths(windows), np.empty((count, 33 - PREFIX))
    for path in range(COUNT):
        model = AutoModelForCausalLM.from_pretrained(folder.of_path(path).model)
        tokens = torch.from_numpy(windows[paths == path])
        with torch.no_grad():
            logits = model(input_ids=tokens[:, :-1]).logits[:, PREFIX - 1 :]
        each = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), tokens[:, PREFIX:], reduction="none"
        )
        nats[paths == path] = each.numpy()
    assert found_.whole.nats == pytest.approx(nats.mean(), abs=1e-4)
    assert found_.whole.tokens == nats.size
    assert sum(found_.shares.values()) == pytest.approx(1)


def test_a_mixture_of_all_paths_is_no_worse_than_their_mean(done, base):
    folder = done[0].folder
    text = base / "mixed.txt"
    text.write_text(tiny.text(300))
    whole = [
        routing.evaluate(folder, [str(text)], "text", "utf-8", "cpu", quiet, mix=n).whole.nats
        for n in (1, 2)
    ]
    assert whole[0] != whole[1]
    with pytest.raises(DataError, match="--mix 3: this family has 2 paths"):
        routing.route(folder, "pond", 3)


def in_turn(writer, mixture, ids, first):
    """What a mixture expects after the first tokens and after each later one, as a text grows; f32[l - first + 1, V]."""
    mixed = Mixed(writer, mixture, END)
    with torch.no_grad():
        return torch.cat(
            [
                mixed(ids[:, :length], writer(input_ids=ids[:, :length]).logits[:, -1])
                for length in range(first, ids.shape[1] + 1)
            ]
        )


END = 256
TOLD = torch.tensor([list(b"pond water leaf root")])


def models(done):
    paths = [done[0].folder.of_path(number).model for number in (0, 1)]
    return [AutoModelForCausalLM.from_pretrained(path).eval() for path in paths]


def test_a_model_mixed_with_itself_is_itself(done):
    model, _ = models(done)
    found = in_turn(model, Mixture([model], [0.7, 0.3], 4), TOLD, 6)
    with torch.no_grad():
        own = torch.log_softmax(model(input_ids=TOLD).logits[0, 5:], -1)
    torch.testing.assert_close(found, own, atol=1e-5, rtol=0)


@pytest.mark.parametrize("first", [1, 4, 9])
def test_a_mixture_that_writes_weighs_paths_as_one_that_is_measured(done, first):
    """By what each has predicted since the prefix, whether that was in the prompt or written."""
    both, seen = models(done), 4
    found = in_turn(both[0], Mixture(both[1:], [0.7, 0.3], seen), TOLD, first)
    with torch.no_grad():
        likely = [torch.log_softmax(one(input_ids=TOLD).logits[0, :-1], -1) for one in both]
    told = TOLD[0, 1:]
    nats = [-one[range(len(told)), told] for one in likely]
    behind = max(seen, 1) - 1  # what was written before the prefix was full counts, too
    start = behind if first > seen else first - 1
    expected = routing._posterior(
        np.array([[0.7, 0.3]]), torch.stack([one[start:] for one in nats])[None].numpy()
    )
    after = [-float(row[token]) for row, token in zip(found[:-1], told[first - 1 :], strict=True)]
    np.testing.assert_allclose(after, expected[0][first - 1 - start :], atol=1e-4)


def test_a_posterior_comes_to_the_path_that_predicts_better():
    nats = np.stack([np.full((1, 40), 1.0), np.full((1, 40), 1.5)], axis=1).astype(np.float32)
    loss = routing._posterior(np.array([[0.01, 0.99]]), nats)
    assert loss.shape == (1, 40)
    assert 1.49 < loss[0, 0] < 1.5
    assert loss[0, -1] == pytest.approx(1.0, abs=1e-3)
    assert (np.diff(loss[0]) < 0).all()
    # A Bayesian mixture is behind the better of its parts by the logarithm of its share at most.
    assert loss.sum() <= 40 + np.log(100) + 1e-6


def test_a_prompt_is_routed_as_the_router_says_and_a_short_one_by_what_there_is(done):
    folder, router = done[0].folder, done[0].folder.read_router()
    for prompt in ("pond water leaf root", "sun and grows by", "po"):
        ids = np.frombuffer(prompt.encode(), np.uint8)[None]
        choice = routing.route(folder, prompt)
        assert choice.paths == [router.paths(ids)[0]]
        assert choice.seen == min(len(prompt), PREFIX)
    assert "only 2 of the 8 tokens that decide" in routing.route(folder, "po").told()
    assert routing.route(folder, "").seen == 0


def test_the_commands_take_a_family(done, base):
    runner, at = CliRunner(), str(done[0].folder.path)
    shown = runner.invoke(app, ["show", at])
    assert shown.exit_code == 0, shown.output
    assert "path-1" in shown.output
    written = runner.invoke(
        app, ["generate", at, "--prompt", "pond water", "--tokens", "4", "--mix", "2"]
    )
    assert written.exit_code == 0, written.output
    assert written.stdout.startswith("pond water")
    assert "routed to path-" in written.stderr
    for more in ([], ["--mix", "2"]):
        talked = runner.invoke(app, ["chat", at, "--tokens", "4", *more], input="pond\nleaf\n")
        assert talked.exit_code == 0, talked.output
        assert talked.stderr.count("routed to") == 1  # the conversation stays there
        assert ("%" in talked.stderr) == bool(more)  # the shares of those that are mixed
    measured = runner.invoke(app, ["evaluate", at, "--data", str(base / "text.txt")])
    assert measured.exit_code == 0, measured.output
    assert "bits per byte" in measured.output
    for command in ("generate", "chat"):
        refused = runner.invoke(app, [command, str(done[0].folder.of_path(0).path), "--mix", "2"])
        assert refused.exit_code == 1
        assert "--mix goes with a family" in refused.stderr
    again = runner.invoke(app, ["train", "--resume", at, "--simulate"])
    assert again.exit_code == 0, again.output  # it is finished, and says what came of it
    assert "bits per byte of held-out text" in again.output


def test_a_machine_that_leads_a_path_is_told_what_a_newcomer_is_invited_to(done, tmp_path):
    home = tmp_path / "anna"
    shutil.copytree(done[0].folder.common.path, home)
    led = RunFolder(home / "path-1")
    led.path.mkdir()
    publish(led, Invitation("ab" * 32, "cd" * 32, ("127.0.0.1:9",), ""))
    refused = CliRunner().invoke(app, ["invite", str(home)])
    assert refused.exit_code == 1
    assert "this machine leads path-1" in " ".join(refused.stderr.split())
    assert "duckweed invite" in refused.stderr


def test_ports_that_there_are_not_are_refused_before_a_family_is_begun(done, base):
    (base / "ports.toml").write_text(toml.write(tiny.specification(base, CHANGES)))
    for words in (["train", "--port", "65532"], ["serve", "--listen", "127.0.0.1:65532"]):
        refused = CliRunner().invoke(
            app, [*words, str(base / "ports.toml"), "--runs", str(base / "none")]
        )
        assert refused.exit_code == 1
        assert "Choose 65530 or less" in " ".join(refused.stderr.split())
    assert not (base / "none").exists()


def test_a_path_is_a_run_as_any_other_for_whoever_looks_at_it(done):
    folder = done[0].folder
    run = duckweed.open(folder.path / "path-0")
    assert run.finished
    assert run.generate("pond", tokens=3, temperature=0.0).startswith("pond")
    with pytest.raises(FolderError, match="is a family of runs"):
        duckweed.open(folder.path)


def test_from_python_a_family_is_simulated_left_gone_on_with_and_put_to_work(done, base):
    spec = tiny.specification(base, CHANGES)
    with duckweed.simulate_family(spec, base=base, runs=base / "runs", name="python") as begun:
        for name, closed in begun:
            assert (name, closed.round) == ("common", 0)
            break
    family = duckweed.open_family(base / "runs" / "python")
    assert family.figures is None
    assert family.paths == []
    training = family.simulate()
    closed = [name for name, _ in training]
    assert closed == ["path-0", "path-0", "path-1", "path-1"]
    assert hashes(family.folder) == hashes(done[0].folder)  # as if it had not been left
    assert training.figures == family.figures == done[2]
    assert [run.finished for run in (family.common, *family.paths)] == [True] * 3
    said = family.generate("pond water", tokens=3, temperature=0.0)
    (path,) = family.route("pond water").paths
    assert said == family.paths[path].generate("pond water", tokens=3, temperature=0.0)
    measured = family.evaluate(base / "text.txt", mix=2)
    assert measured.whole.bits_per_byte > 0
    assert list(family.train()) == []  # there is nothing left


def test_from_python_what_is_no_family_is_told(done, base):
    with pytest.raises(SpecError, match=r"section \[paths\] is missing"):
        duckweed.train_family(tiny.specification(base), base=base, runs=base / "runs")
    with pytest.raises(FolderError, match=r"a single run is opened by duckweed\.open"):
        duckweed.open_family(done[0].folder.of_path(0).path)


def test_what_takes_no_family_says_what_does(done, base):
    spec = tiny.specification(base, CHANGES)
    with pytest.raises(SpecError, match=r"describes a family of runs.*duckweed.train_family"):
        duckweed.simulate(spec, base=base, runs=base / "runs", name="refused")
    assert not (base / "runs" / "refused").exists()
    with pytest.raises(FolderError, match=r"exists already. Go on with it: .*--resume"):
        found(base, "whole")


def test_a_router_that_does_not_hash_right_is_refused(base, done, tmp_path):
    copy = families.FamilyFolder(tmp_path / "copy")
    shutil.copytree(done[0].folder.path, copy.path)
    data = bytearray(copy.router.read_bytes())
    data[-1] ^= 1
    copy.router.write_bytes(data)
    with pytest.raises(FolderError, match=r"does not hash right.*Copy it again"):
        routing.route(copy, "pond")
    copy.router.write_bytes(data[:1000])
    with pytest.raises(FolderError, match=r"it is cut short or damaged\. Copy it again .*or from"):
        routing.route(copy, "pond")
    run = copy.of_path(0)
    spec = specs.load(run.spec)
    blob = founding.router_of(run, spec)
    blob.write_bytes(data)
    run.note({"dataset": str(tmp_path / "gone")})
    with pytest.raises(DataError, match=r"does not hash right: .*other text"):
        founding.reopen(run, spec)
    blob.unlink()
    with pytest.raises(DataError, match="is not here or cannot be read"):
        founding.reopen(run, spec)


def test_text_that_feeds_too_few_paths_is_refused_before_anything_is_left(base):
    with pytest.raises(DataError, match=r"path \d+ of 40 starves.*paths.count: \d+ might do"):
        found(base, "starving", {"paths.count": 40})
    assert not (base / "runs" / "starving").exists()
    assert not list((base / "runs").glob(".starving*"))


def test_a_section_branch_of_ones_own_is_refused(done, base):
    spec = specs.parse(toml.write(specs.load(base / "runs" / "whole" / "common" / "run.toml")))
    with pytest.raises(SpecError, match="written by duckweed"):
        begin.found(spec, Destination(base, base / "runs", "own"), Machine("cpu"), (), quiet, quiet)


def test_without_enough_held_out_text_the_common_run_still_says_what_it_measured(done):
    (final,) = done[0].common.folder.records(FinalLoss)
    assert final.tokens % (33 - PREFIX) == 0
    assert session.trained(done[0].common)
