"""One of the processes of a site that `duckweed join --processes` starts: `python -m duckweed.cli.common.rank RANK COUNT
PORT join ...` is `duckweed join ...` in the environment that torchrun would have made."""

import os
import sys

from duckweed import cli
from duckweed.process import environment


def main() -> int:
    rank, size, port, *words = sys.argv[1:]
    os.environ |= {
        "RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    if rank == "0":
        os.dup2(1, 2)  # its errors are for the user, too
    environment.end_with_parent()
    sys.argv = ["duckweed", *words]
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    return 0


if __name__ == "__main__":
    sys.exit(main())
