"""Data parallelism as it is: M processes, torch DistributedDataParallel over gloo on loopback.

Used for three things: to show that the one-process form of the long cells (one model, the batches
of all peers joined) gives the same losses, to measure the bytes that DDP moves beside the formula,
and for PowerSGD, which has no one-process form.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from bench.parity.cells import BASE, HERE
from bench.parity.stacked import Run
from duckweed.learn.learner import Part
from duckweed.learn.model import model as models
from duckweed.learn.model.network import Network
from duckweed.learn.optim.registry import make_optimizer
from duckweed.learn.optim.schedule import learning_rate
from duckweed.learn.tasks.text import TOKENS, NextToken
from duckweed.round import founding
from duckweed.run.spec import RunSpec, override

NEW_NETWORK = 0x40000000  # CLONE_NEWNET: a loopback device on which nobody else sends


def loopback_bytes() -> int:
    """Bytes sent on the loopback device since it came up."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[8])
    raise OSError("no loopback device in /proc/net/dev")


def own_loopback() -> bool:
    """Give this process a network of its own, so that the count is ours alone (needs root)."""
    if ctypes.CDLL(None).unshare(NEW_NETWORK):
        return False
    with socket.socket() as plug:
        fcntl.ioctl(plug, 0x8914, struct.pack("16sh", b"lo", 1 | 64))  # SIOCSIFFLAGS: up, running
    return True


def worker(rank: int, raw: bytes, hook: str, steps: int, rendezvous: str, out: str) -> None:
    """One process of the group: `steps` steps on the batches of peer `rank`."""
    torch.set_num_threads(1)
    spec = msgspec.json.decode(raw, type=RunSpec)
    peers, inner = spec.rounds.peers, spec.inner
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=peers)
    ground = founding.prepare(spec, HERE, lambda text: None)
    model = founding.first_model(spec, ground)
    # One bucket: the futures of PowerSGD's hook start all-reduces of their own, and with several
    # buckets gloo meets them in another order in each process and gives up.
    wrapped = DistributedDataParallel(model, bucket_cap_mb=1024)
    network = Network(wrapped, "cpu", torch.float32)
    if hook == "powersgd":
        state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=4, start_powerSGD_iter=10
        )
        wrapped.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    task, optimizer = NextToken(spec, ground.dataset), make_optimizer(model, inner)
    losses, before = [], 0
    for step in range(steps):
        if step == 20:  # the first steps broadcast weights, and PowerSGD starts after ten
            dist.barrier()
            before = loopback_bytes()
        block, within = step // inner.steps * peers + rank, step % inner.steps
        batch = next(task.batches(Part(block, within, 1), model))
        loss = task.loss(network, {TOKENS: torch.from_numpy(batch[TOKENS])})
        loss.backward()
        optimizer.step(learning_rate(inner, step, spec.total_steps), step)
        losses.append(loss.item())
    dist.barrier()
    moved = loopback_bytes() - before
    facts: dict[str, Any] = {"losses": losses, "bytes": moved}
    if rank == 0:
        learner = founding.learner(spec, ground, "cpu")
        weights, limit = models.read_weights(model), spec.rounds.evaluate_tokens
        nats, count = learner.evaluate(weights, limit)
        facts["bits_per_byte"] = nats / count / float(np.log(2))
    Path(f"{out}.{rank}").write_text(json.dumps(facts))
    dist.destroy_process_group()


def processes(spec: RunSpec, hook: str, steps: int) -> dict[str, Any]:
    """Run the group. losses: mean over the processes, [steps]; bytes per process and step."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        arguments = (
            msgspec.json.encode(spec), hook, steps, f"{place}/rendezvous", f"{place}/out",
        )  # fmt: skip
        torch.multiprocessing.spawn(worker, arguments, nprocs=spec.rounds.peers)
        found = [json.loads(Path(f"{place}/out.{r}").read_text()) for r in range(spec.rounds.peers)]
    return {
        "hook": hook,
        "steps": steps,
        "losses": np.mean([f["losses"] for f in found], axis=0).tolist(),
        "bytes_per_process_and_step": found[0]["bytes"] / spec.rounds.peers / (steps - 20),
        "bits_per_byte": found[0]["bits_per_byte"],
        "seconds": round(time.perf_counter() - began, 1),
    }


def one_process(spec: RunSpec) -> dict[str, Any]:
    """The same steps in the form of the long cells."""
    ground = founding.prepare(spec, HERE, lambda text: None)
    run = Run(spec, ground, ddp=True)
    record = run.run(lambda text: None)
    return {
        "round_losses": [float(x) for x in run.losses],
        "bits_per_byte": record["bits_per_byte"],
    }


def measure() -> dict[str, Any]:
    """The check, the bytes, and PowerSGD against plain DDP over 200 steps."""
    isolated = own_loopback()
    short = BASE | {"rounds.count": 4, "inner.learning_rate": 0.005, "inner.warmup": 20}
    short |= {"rounds.evaluate_tokens": 16384}
    spec = override(RunSpec(), short)
    peers = spec.rounds.peers
    real = processes(spec, "none", spec.total_steps)
    joined = one_process(spec)
    means = np.array(real["losses"]).reshape(-1, spec.inner.steps).mean(1)
    parameters = Run(spec, founding.prepare(spec, HERE, lambda text: None), True).layout.total
    ring = 2 * (peers - 1) / peers * parameters
    record: dict[str, Any] = {
        "isolated_loopback": isolated,
        "processes": peers,
        "parameters": parameters,
        "check": {
            "what": "40 steps of Muon, mean loss of each ten steps",
            "ddp_processes": means.tolist(),
            "one_process": joined["round_losses"],
            "largest_difference": float(np.abs(means - joined["round_losses"]).max()),
            "held_out": [real["bits_per_byte"], joined["bits_per_byte"]],
        },
        "bytes_per_process_and_step": {
            "fp32 measured": real["bytes_per_process_and_step"],
            "fp32 ring formula": 4 * ring,
            "bf16 ring formula": 2 * ring,  # gloo has no bf16 all-reduce: torch refuses its hook
        },
    }
    print(json.dumps(record, indent=1), flush=True)
    record["powersgd"] = [power(optimizer, rate, ring) for optimizer, rate in POWER]
    return record


POWER = (("adamw", 0.005),)


def power(optimizer: str, rate: float, ring: float) -> dict[str, Any]:
    """PowerSGD of rank 4 and plain DDP over 200 steps with the same schedule."""
    changes = {"rounds.count": 20, "inner.optimizer": optimizer, "inner.learning_rate": rate}
    spec = override(RunSpec(), BASE | changes | {"inner.warmup": 40})
    found = processes(spec, "powersgd", spec.total_steps)
    plain = one_process(spec)
    return {
        "optimizer": optimizer,
        "learning_rate": rate,
        "steps": spec.total_steps,
        "bits_per_byte": found["bits_per_byte"],
        "plain_bits_per_byte": plain["bits_per_byte"],
        "bytes_per_process_and_step": found["bytes_per_process_and_step"],
        "saving_against_bf16_ring": 2 * ring / found["bytes_per_process_and_step"],
        "seconds": found["seconds"],
    }
