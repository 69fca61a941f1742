"""`python -m duckweed`: the same as `duckweed`."""

from duckweed.cli import main

main()
