"""What can be said falsely in a message, field by field, from its schema: a field that is new is covered by
itself."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

Path = tuple[str, ...]
"""Names of fields, from the message inwards."""

EDGES = (0, 1, -1, 1 << 31, (1 << 31) + 1, 1 << 48, (1 << 48) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
         -(1 << 63))  # fmt: skip
REALS = (0.0, -0.0, -1.0, 5e-324, 1e-300, 1.0, 1e4, 1e8, 1e9, 1e16, 1e30, 1e300, float("inf"),
         float("-inf"), float("nan"))  # fmt: skip
WORDS = ("", "x", "[/x]", "[bold red]:skull:", "\x1b]52;c;QUFB\x07\x1b[2J", "a\r\nb\x00c\u202ed\ue000",
         "<script>alert(1)</script>", "../../etc/passwd", "/etc/passwd", "ab" * 32, "AB" * 32, "zz" * 32,
         "ab" * 33, "é" * 64, "y" * 301, "y" * 100_000)  # fmt: skip
OTHERS = (None, True, 1.5, -7, "text", b"bytes", [], {}, [[[[]]]], {"is": "join"})
"""Of a type that a field may not have."""


def paths(kind: type) -> Iterator[tuple[Path, inspect.Type]]:
    """Every field of a message, those of structs in it too, and its type."""
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    for field in described.fields:
        yield (field.name,), field.type
        if isinstance(field.type, inspect.StructType):
            for path, of in paths(field.type.cls):
                yield (field.name, *path), of


def lies(of: inspect.Type, depth: int = 0) -> list[Any]:
    """Values for a field: at and beyond its bounds, of its type and of others."""
    return [*OTHERS, *_likely(of, depth)]


def _likely(of: inspect.Type, depth: int = 0) -> list[Any]:
    """Those of its own type, some of which are in bounds."""
    found: list[Any] = []
    match of:
        case inspect.IntType():
            found += EDGES
        case inspect.FloatType():
            found += REALS
        case inspect.StrType() | inspect.LiteralType():
            found += WORDS
        case inspect.BytesType():
            found += [b"", bytes(63), bytes(64), bytes(65), bytes(100_000)]
        case inspect.BoolType():
            found += [True, False, 2]
        case inspect.ListType(item_type=item) if depth < 2:
            inner = lies(item, depth + 1)
            found += [[one] for one in inner] + [inner, [0] * 10_000]
        case inspect.DictType(key_type=key, value_type=value) if depth < 2:
            found += [{0: one} for one in lies(value, depth + 1)]
            found += [{one: 0} for one in lies(key, depth + 1) if isinstance(one, str | int)]
        case inspect.UnionType(types=types):
            for one in types:
                found += _likely(one, depth)
        case inspect.StructType():
            found += [{field.name: 0 for field in of.fields}]
    return found


def lied(message: msgspec.Struct, path: Path, value: Any) -> msgspec.Struct:
    """The message with another value in one of its fields. It need not be one that can be decoded."""
    name, *rest = path
    if rest:
        inner = getattr(message, name)
        if not isinstance(inner, msgspec.Struct):  # another lie stands there already
            return message
        value = lied(inner, tuple(rest), value)
    changed = copy.copy(message)  # as it is: a message made anew would put its own text right
    msgspec.structs.force_setattr(changed, name, value)
    return changed


def plan(
    kinds: list[type], count: int, dice: random.Random
) -> Iterator[tuple[type, list[tuple[Path, Any]]]]:
    """`count` lying messages: each lie in each field alone, in an order drawn by the dice, then again and
    again pairs of lies in one message, each of the type that the field has."""
    fields = {kind: list(paths(kind)) for kind in kinds}
    single = [
        (kind, [(path, value)])
        for kind, found in fields.items()
        for path, of in found
        for value in lies(of)
    ]
    dice.shuffle(single)
    yield from single[:count]
    able = [kind for kind in kinds if len(fields[kind]) > 1]
    values = {kind: [(path, _likely(of) or lies(of)) for path, of in fields[kind]] for kind in able}
    for _ in range(count - len(single)):
        kind = dice.choice(able)
        pair = dice.sample(values[kind], 2)
        yield kind, [(path, dice.choice(chosen)) for path, chosen in pair]
