"""A peer that knows nothing but the invitation takes part like those of the machine itself."""

import asyncio
import threading
from contextlib import closing

import pytest
import torch
from fixtures import commands, tiny
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from duckweed import participation, session
from duckweed.ledger.entries import PeerEntry, RoundEntry, StateEntry
from duckweed.ledger.ledger import Ledger
from duckweed.net.identity import verify
from duckweed.process.local_run import LocalRun
from duckweed.process.simulation import Simulation
from duckweed.round import founding
from duckweed.run import state as states
from duckweed.run.folder import FolderError, RunFolder
from duckweed.run.state import StateError
from duckweed.swarm.peer.join import join
from duckweed.swarm.protocol.client import QuestionRefused
from duckweed.swarm.protocol.invitation import Invitation
from duckweed.volunteer import controls, given
from duckweed.volunteer.peer_home import PeerHome

pytestmark = pytest.mark.slow
DEEPSEEK = {
    "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "vocab_size": 256,
}  # fmt: skip
BIAS = "e_score_correction_bias"

# However busy the machine is, no peer is thought slow enough to be given fewer steps than the others.
ALIKE = {"rounds.patience": 60.0}


def _joined(invitation, home, said):
    """The text and the configuration lie on the organiser's machine: the joiner names its own copies."""
    return join(invitation, home, ("text.txt",), "cpu", said.append, config="config.json")


def test_the_invited_reach_the_bits_of_the_simulation_and_others_stay_out(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)  # the text and the configuration lie here, as they would there
    spec = tiny.specification(tmp_path, {"rounds.count": 3, "rounds.peers": 2, **ALIKE})
    simulated, ground, state = tiny.found(tmp_path, "simulation", spec)
    layout = founding.layout(simulated)
    expected = Simulation(simulated, spec, layout, ground, state, "cpu").run().hash()
    folder, _, _ = tiny.found(tmp_path, "joined", spec)

    with LocalRun(folder, spec, "cpu", 1, 1, forks=commands.forks()) as run:
        serving = run.start()
        watching = threading.Thread(target=lambda: list(run.events()), daemon=True)
        watching.start()
        port = next(a for a in serving.bound if a.startswith("127.")).rpartition(":")[2]
        wrong = Invitation(spec.identity, serving.id, (f"127.0.0.1:{port}",), "guessed")
        with pytest.raises(QuestionRefused, match="secret"):
            asyncio.run(_joined(wrong, tmp_path / "stranger", []))
        right = Invitation(spec.identity, serving.id, wrong.addresses, folder.read_secret())
        said: list[str] = []
        reason = asyncio.run(_joined(right, tmp_path / "guest", said))
        watching.join(60)

    assert reason == "all rounds are done"
    assert any("fetching the state after round 0" in text for text in said)
    ledger = Ledger(folder.ledger)
    assert [e.body.closed.accepted for e in ledger.entries(RoundEntry)] == [[0, 1]] * 3
    assert len(list(ledger.entries(PeerEntry))) == 2
    agreed = {e.round: e.body.hash for e in ledger.entries(StateEntry)}
    assert agreed[3] == expected
    path = tmp_path / "guest" / "states" / "00000003.safetensors"
    assert states.load(path, layout).hash() == expected
    takes_home(tmp_path, right, ledger.head)


def takes_home(base, invitation, head):
    """What the guest has, and that it needs nobody for it."""
    guest = RunFolder(base / "guest")
    copy = Ledger(guest.ledger)
    copy.verify(verify)
    assert copy.head == head
    copy.close()
    home = PeerHome(guest.path, invitation)
    controls.save(home.peer, controls.Controls(model=False))
    given_, lines, *_ = participation.take_home(home, "cpu", print)
    assert "the one that the peers agreed on" in lines
    assert "in 3 rounds, 50% of the run's tokens, place 1 of 2" in given_
    assert [(x.rounds, x.over, x.head) for x in given.known()] == [(3, True, head)]
    assert guest.report.is_file()
    assert not guest.model.exists()
    controls.save(home.peer, controls.Controls())
    assert participation.take_home(home, "cpu", print)[-2].endswith(str(guest.model))
    assert session.generate(guest.path, "the", 5, 0.0, 0, "cpu").startswith("the")

    with pytest.raises(FolderError, match=r"did not begin the run.*duckweed join --home"):
        session.reopen(guest, "cpu", 1)
    assert not guest.coordinator_key.exists()

    state = states.load(guest.state(3), founding.layout(guest))
    state.weights[0] += 1
    state.save(guest.state(3))
    guest.report.unlink()
    with pytest.raises(StateError, match="not the one that the peers agreed on"):
        participation.take_home(home, "cpu", print)


def test_a_joiner_holds_the_persistent_buffers_of_the_given_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("deepseek_v3", **DEEPSEEK))
    balance = torch.linspace(-3, 3, 4)
    for name, buffer in model.named_buffers():
        if BIAS in name:
            buffer.copy_(balance)
    model.save_pretrained("given")
    changes = {"rounds.count": 2, "rounds.peers": 2, **ALIKE}
    changes |= {"model.source": "given", "model.weights": "given"}
    spec = tiny.specification(tmp_path, changes)
    folder, ground, _ = tiny.found(tmp_path, "joined", spec)
    with LocalRun(folder, spec, "cpu", 1, 1, forks=commands.forks()) as run:
        serving = run.start()
        watching = threading.Thread(target=lambda: list(run.events()), daemon=True)
        watching.start()
        port = next(a for a in serving.bound if a.startswith("127.")).rpartition(":")[2]
        addresses = (f"127.0.0.1:{port}",)
        there = Invitation(spec.identity, serving.id, addresses, folder.read_secret())
        took_part = join(
            there, tmp_path / "guest", ("text.txt",), "cpu", lambda text: None, config="given"
        )
        reason = asyncio.run(took_part)
        watching.join(60)
    assert reason == "all rounds are done"
    with closing(Ledger(folder.ledger)) as ledger:
        agreed = {e.round: e.body.hash for e in ledger.entries(StateEntry)}
        assert [e.body.closed.accepted for e in ledger.entries(RoundEntry)] == [[0, 1]] * 2
    path = tmp_path / "guest" / "states" / "00000002.safetensors"
    assert states.load(path, founding.layout(folder)).hash() == agreed[2]
    session.finish(session.Session(folder, spec, ground, "cpu", 1))
    kept = load_file(folder.model / "model.safetensors")
    assert [value.tolist() for name, value in kept.items() if BIAS in name] == [balance.tolist()]
