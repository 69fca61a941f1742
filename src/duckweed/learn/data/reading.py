"""What became of the text that was asked for: what was read, what was left out, and why."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path


class DataError(ValueError):
    """The data cannot be used; the message says why and what to do."""


@dataclass
class Reading:
    """The facts of one reading of a corpus, complete when its last document has been taken."""

    files: int = 0
    """Files that were opened and read; a file of zero bytes counts among those left out."""
    documents: int = 0
    bytes: int = 0
    """Of the documents, as UTF-8."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason -> how many files or documents were left out for it."""
    examples: dict[str, str] = field(default_factory=dict)
    """Reason -> the first that was left out for it, with what to do about it."""
    limited: bool = False
    """Whether the limit of bytes ended the reading."""

    def leave_out(self, reason: str, where: str, advice: str = "") -> None:
        """Count one more; `where` and `advice` are kept for the first of each reason."""
        self.left_out[reason] += 1
        self.examples.setdefault(reason, f"{where}: {advice}" if advice else where)


def told(files: int, documents: int, size: int, left_out: str, limited: bool) -> str:
    """One line of what was read; `left_out` as `reasons` words it."""
    end = "; stopped at the limit of bytes" if limited else ""
    return (
        f"read {_count(files, 'file')}, {_count(documents, 'document')}, {size:,} bytes of text{end}; "
        f"left out {left_out or 'nothing'}"
    )


def reasons(left_out: dict[str, int], examples: dict[str, str]) -> str:
    """ "2 empty (d/a.txt), 1 binary (d/b.png)": how many for which reason, and the first of each."""
    return ", ".join(
        f"{count:,} {reason}" + (f" ({examples[reason]})" if reason in examples else "")
        for reason, count in sorted(left_out.items())
    )


def shown(path: Path, base: Path) -> str:
    """The path as a person reads it: relative to `base` where it lies in there, and printable even
    if the name is no UTF-8."""
    inside = path.relative_to(base) if path.is_relative_to(base) else path
    return str(inside).encode(errors="backslashreplace").decode()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
