"""A terminal as a picture: tmux capture-pane -ep | python -m bench.pictures > docs/pictures/live.svg"""

import io
import sys

from rich.console import Console
from rich.text import Text


def main() -> None:
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(sys.stdin.read().rstrip()))
    print(console.export_svg(title="duckweed train"))


if __name__ == "__main__":
    main()
