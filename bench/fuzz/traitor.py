"""A member that means harm: forged, replayed, oversized and undecodable contributions."""

import random
from contextlib import suppress
from typing import Any

import msgspec

from bench.fuzz.target import IN_VAIN, PATIENCE, PER_KEY, Ended, Target, announcement
from duckweed.ledger.ledger import entry_hash
from duckweed.merge.round import blob_hash
from duckweed.net.identity import Identity
from duckweed.net.transport import Endpoint, LinkError
from duckweed.round.open_round import Timings
from duckweed.round.signed import signed_part
from duckweed.run.folder import RunFolder
from duckweed.run.spec import RunSpec
from duckweed.swarm.protocol import messages as m


def forged(
    dice: random.Random, me: Identity, index: int, task: m.Train, spec: RunSpec, folder: RunFolder,
    total: int, genesis: str,
) -> tuple[str, m.Contribute, bytes]:  # fmt: skip
    """A contribution that must not count, and what is wrong with it."""
    old = [p.read_bytes() for p in folder.blobs.iterdir() if p.is_file() and p.suffix != ".part"]
    blob = dice.choice(old) if old and dice.random() < 0.5 else dice.randbytes(200)
    honest = announcement(
        round=task.round, peer=index, block=task.block, blob=blob_hash(blob), size=len(blob),
        first=task.first, steps=task.steps, tokens=spec.tokens_per_block,
        rms=[0.1] * total,
    )  # fmt: skip
    changes: dict[str, dict[str, Any]] = {
        "another's name": {"peer": 0},
        "another round": {"round": task.round + dice.choice([-1, 1, 10**9])},
        "another block": {"block": task.block + 1},
        "another blob": {"blob": "00" * 32},
        "another size": {"size": len(blob) + 1},
        "loss that is no number": {"loss": float("nan")},
        "more tokens": {"tokens": 10**12},
        "sizes that are no numbers": {"rms": [float("inf")] * total},
        "too few sizes": {"rms": [0.1]},
        "unsigned": {},
        "undecodable or replayed": {},
    }
    kind = dice.choice(list(changes))
    said = msgspec.structs.replace(honest, **changes[kind])
    signature = dice.randbytes(64) if kind == "unsigned" else me.sign(signed_part(genesis, said))
    return kind, m.Contribute(said, signature, Timings(), 1.0, 1), blob


async def betray(target: Target, count: int, dice: random.Random, spec: RunSpec, tensors: int):
    """A member hands in `count` forged contributions, fewer if the run is over before; how each kind
    ended, and what the coordinator had counted before the last of them. Cut off after some of them, it
    waits until it is heard again only as another key."""
    ended = Ended()
    counted: dict[str, int] = {}
    sent = in_vain = 0
    while sent < count and in_vain < IN_VAIN:
        in_vain += 1
        me = Identity(dice.randbytes(32))
        endpoint = await Endpoint.bind(me, 1 << 20, target.source)
        with suppress(LinkError):
            link = await endpoint.connect(target.id, target.addresses)
            head, _ = await link.ask(m.encode(m.Join(m.PROTOCOL, target.folder.read_secret())))
            welcome = m.answer(head)
            assert isinstance(welcome, m.Welcome)
            assert welcome.genesis
            genesis = entry_hash("", 0, "genesis", 0, welcome.genesis.body)
            state = "ff" * 32  # it lies about its state too, once there is one to lie about
            for _ in range(PER_KEY):
                run = await target.status()
                counted = run.refused
                if run.round >= run.rounds:
                    await endpoint.close()
                    return ended, counted
                task = m.Train(run.round, 0, 0, 1, False, 0, spec.inner.steps)
                question = m.Next(run.round, state, False)
                asked = m.answer((await link.ask(m.encode(question), patience=PATIENCE))[0])
                task = asked if isinstance(asked, m.Train) else task
                kind, contribution, blob = forged(
                    dice, me, welcome.index, task, spec, target.folder, tensors, genesis
                )
                sent, in_vain = sent + 1, 0
                head, _ = await link.ask(m.encode(contribution), blob, patience=PATIENCE)
                ended[kind, type(m.answer(head)).__name__] += 1
            link.close()
        await endpoint.close()
    return ended, counted
