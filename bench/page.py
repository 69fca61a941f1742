"""Tables of a page in docs/, which stand between `<!-- name -->` and `<!-- end -->`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def rows(head: Sequence[str], body: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in lines)


def fill(page: Path, parts: Mapping[str, str]) -> None:
    """Replace what stands after each mark."""
    text = page.read_text("utf-8")
    for name, made in parts.items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = mark.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)  # type: ignore[misc]
    page.write_text(text, "utf-8")
