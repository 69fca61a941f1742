"""`villain.py INVITATION RUN_FOLDER COUNT SEED`: a process that throws COUNT pieces of nonsense at a coordinator,
half of them as a stranger, half as a member who hands in forged, cut and replayed contributions."""

import asyncio
import json
import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.fuzz.stranger import bombard
from bench.fuzz.target import Target
from bench.fuzz.traitor import betray
from duckweed.round import founding
from duckweed.run import spec as specs
from duckweed.run.folder import RunFolder
from duckweed.swarm.protocol.invitation import Invitation, read


async def main(invitation: Invitation, folder: RunFolder, count: int, seed: int) -> None:
    dice = random.Random(seed)
    target = Target(folder, invitation.coordinator, list(invitation.addresses), "0.0.0.0:0")
    ended = await bombard(target, count // 2, dice)
    tensors = len(founding.layout(folder).names)
    ended += await betray(target, count // 2, dice, specs.load(folder.spec), tensors)
    told = [f"{kind}: {how}: {n}" for (kind, how), n in sorted(ended.items())]
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    os.environ["OMP_WAIT_POLICY"] = "passive"
    line, run, count, seed = sys.argv[1:]
    asyncio.run(main(read(line), RunFolder(Path(run)), int(count), int(seed)))
