"""`strangers.py INVITATION RUN_FOLDER`: a flood of strangers, until it is ended: connections with nothing, a part of a
greeting or noise in them, and nonsense under ever new keys. Each line that it prints is the sum so far."""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.fuzz.flood import flood
from bench.fuzz.stranger import bombard
from bench.fuzz.target import Target
from duckweed.run.folder import RunFolder
from duckweed.swarm.protocol.invitation import Invitation, read

CONNECTIONS, PIECES, PAUSE = 300, 44, 5.0  # of each wave, and seconds between two


async def main(invitation: Invitation, folder: RunFolder) -> None:
    dice = random.Random(0)
    told: Counter[str] = Counter()
    while True:
        try:
            target = Target(folder, invitation.coordinator, list(invitation.addresses))
            opened = await flood(target, CONNECTIONS, dice)
            ended = await bombard(target, PIECES, dice)
        except (OSError, TimeoutError, ValueError):  # the coordinator is away, or too busy
            told["waves given up"] += 1
        else:
            most = max(told["most files open"], opened.pop("most files open", 0))
            told += opened + Counter({how: n for (_, how), n in ended.items()})
            told["waves"] += 1
            told["most files open"] = most
        print(json.dumps(told), flush=True)
        await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    os.environ["OMP_WAIT_POLICY"] = "passive"
    asyncio.run(main(read(sys.argv[1]), RunFolder(Path(sys.argv[2]))))
