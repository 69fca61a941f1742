"""The specification of a run: what `run.toml` says. Immutable; its hash is the run's identity."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec
from blake3 import blake3

from duckweed.run.folder import model_folder
from duckweed.run.registry import RULES, WIRES
from duckweed.run.schedule import Schedule, within
from duckweed.run.sections import (
    Architecture,
    Branch,
    DataSpec,
    Inner,
    Members,
    Merge,
    Model,
    Outer,
    Paths,
    Rounds,
    Wire,
    unknown,
)
from duckweed.run.task.sections import TASKS, Chat, Reinforce, Text

UNENDING = 1 << 31  # steps of the only block of a run with a budget of bytes
SPEC_LIMIT = 1 << 18  # bytes; a specification is a page of text
SEED_LIMIT = 1 << 63
DESCRIPTION_LIMIT = 2000  # characters
DEFAULT_WIRE = "integer"
AUDITED = 0.05  # of the contributions of an open run
S = TypeVar("S")


class SpecError(ValueError):
    """A specification that cannot be used; the message names the key and what was expected."""


class RunSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides the course of a run."""

    seed: int = 0
    # What is trained and why, for those who look at the run. Unset and not "", so that runs without one
    # keep their identity.
    description: str | msgspec.UnsetType = msgspec.UNSET
    # Unset: next-token text. Not a default, so that runs which do not name it keep their identity.
    task: Text | Chat | Reinforce | msgspec.UnsetType = msgspec.UNSET
    data: DataSpec = DataSpec()
    model: Model = Model()
    architecture: Architecture = Architecture()
    inner: Inner = Inner()
    wire: Wire = msgspec.field(default_factory=lambda: WIRES.find(DEFAULT_WIRE).section())
    merge: Merge = Merge()
    outer: Outer = Outer()
    rounds: Rounds = Rounds()
    members: Members = Members()
    # Unset, so that whatever knows nothing of paths keeps its identity.
    paths: Paths | msgspec.UnsetType = msgspec.UNSET
    branch: Branch | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not 0 <= self.seed < SEED_LIMIT:
            raise ValueError(f"seed = {self.seed}: must be between 0 and {SEED_LIMIT - 1}")
        if self.description is not msgspec.UNSET:
            _check_description(self.description)
        if self.model.weights == "given" and self.architecture != Architecture():
            raise ValueError("architecture: weights that are given keep their own configuration")
        _check_rule(self.rule, self.wire.kind)
        if self.audits and (reason := self._not_audited()):
            raise ValueError(f"members.audits: {reason}")
        if isinstance(self.task, Reinforce):
            self.task.check_fits(self.inner.batch, self.model.sequence)
            self._check_writers()
        self._check_paths()
        if self.inner.warmup >= self.course:
            raise ValueError(
                f"inner.warmup = {self.inner.warmup}: the whole run has only {self.course} steps "
                "(inner.steps x rounds.count)"
            )
        self.schedule  # noqa: B018 # raises ValueError where the wire has no known size

    @property
    def rule(self) -> str:
        """The merge rule. Where none is named, that of an open run leaves out who works against the
        others, if its wire allows that."""
        needed = RULES.find("filtered").needs
        able = self.members.join == "open" and needed <= WIRES.find(self.wire.kind).gives
        return self.merge.rule or ("filtered" if able else "mean")

    def _check_paths(self) -> None:
        """Raises ValueError where paths and the rest of the specification do not go together."""
        paths, branch = self.paths, self.branch
        if paths is msgspec.UNSET:
            if branch is not msgspec.UNSET:
                raise ValueError("branch: only a run of a family has this section; add [paths]")
            return
        if not isinstance(self.task, Text | msgspec.UnsetType):
            raise ValueError(
                "paths: only text is routed so far, and this [task] trains on something else; leave "
                "[paths] or [task] out"
            )
        if paths.prefix >= self.model.sequence:
            raise ValueError(
                f"paths.prefix = {paths.prefix}: must be less than model.sequence = "
                f"{self.model.sequence}, since only what follows the prefix is measured"
            )
        if branch is msgspec.UNSET and self.rounds.count < 2:
            raise ValueError(
                "rounds.count = 1: a family needs two at least, one of the common start and one of each path"
            )
        if branch is not msgspec.UNSET and branch.path >= paths.count:
            raise ValueError(f"branch.path = {branch.path}: the paths are 0 to {paths.count - 1}")
        if branch is not msgspec.UNSET and len(branch.coordinators or ()) not in (0, paths.count):
            raise ValueError(f"branch.coordinators: one for each of {paths.count} paths, or none")
        if not paths.apart:
            self._check_shared(paths)

    def _check_shared(self, paths: Paths) -> None:
        """Raises ValueError where the paths cannot merge what they hold in common."""
        if not WIRES.find(self.wire.kind).divisible:
            raise ValueError(
                f"paths.shared: what paths have in common is an exact sum over all of them, which wire.kind = "
                f"{self.wire.kind!r} does not give; use 'integer', or paths.shared = 'none'"
            )
        if self.members.successors:
            raise ValueError(
                "paths.shared: paths that have something in common are led by one machine so far; leave "
                "members.successors out, or set paths.shared = 'none'"
            )
        if self.branch is msgspec.UNSET and self.rounds.peers < paths.count:
            raise ValueError(
                f"paths.shared: paths that have something in common are trained at the same time, and rounds.peers = "
                f"{self.rounds.peers} are too few for {paths.count} paths; lower paths.count, or set paths.shared = 'none'"
            )

    def _check_writers(self) -> None:
        """Raises ValueError where peers that only write cannot take part, and the specification has some."""
        if self.writers and self.no_writers:
            raise ValueError(f"task.writers: {self.no_writers}")
        if self.writers >= self.rounds.peers:
            raise ValueError(
                f"task.writers = {self.writers}: must be less than rounds.peers = {self.rounds.peers}, since "
                "somebody has to train"
            )
        if self.writers and isinstance(self.task, Reinforce) and self.task.lag >= self.rounds.count:
            raise ValueError(
                f"task.staleness = {self.task.lag}: must be less than rounds.count = {self.rounds.count}; nobody "
                "would learn from what peers write"
            )

    @property
    def writers(self) -> int:
        """Of the peers that the run begins with, how many only write answers."""
        named = isinstance(self.task, Reinforce) and self.task.writers
        return named if isinstance(named, int) else 0

    def only_writes(self, slot: int) -> bool:
        """Whether this peer of the organiser's machine, counted from 0, only writes answers."""
        return self.rounds.peers - self.writers <= slot < self.rounds.peers

    @property
    def no_writers(self) -> str:
        """Why no peer of this run can only write answers; "" if peers can."""
        if not isinstance(self.task, Reinforce):
            return "only in reinforcement learning (task.kind = 'reinforce') are there answers to write"
        if self.rounds.overlap:
            return "with rounds.overlap peers begin a round before the answers of others are known"
        if self.members.join == "open" and self.task.ratio != "cispo":
            return (
                "anyone may join this run, and nobody can check what a stranger says that its tokens cost; "
                "task.ratio = 'cispo' bounds what a false cost does"
            )
        if self.members.join == "open" and self.task.kl:
            return (
                "anyone may join this run, and nothing bounds what a false cost of a stranger's token does to the "
                "divergence from the start; leave task.kl out"
            )
        return ""

    @property
    def path(self) -> int | None:
        """Which path of a family the run trains; None: it trains on all of the text."""
        branch = self.branch
        return None if branch is msgspec.UNSET or branch.path < 0 else branch.path

    @property
    def in_common(self) -> bool:
        """Whether the run is a path that holds something in common with the others of its family."""
        return isinstance(self.paths, Paths) and self.path is not None and not self.paths.apart

    @property
    def unmeasured(self) -> int:
        """The first tokens of each held-out sequence, by which it is routed, and which no loss is taken over."""
        return 0 if self.paths is msgspec.UNSET else self.paths.prefix

    @property
    def audits(self) -> float:
        """Share of the contributions that other peers do again: in an open run, unless it says otherwise,
        one in twenty."""
        if self.members.audits is not msgspec.UNSET:
            return self.members.audits
        return AUDITED if self.members.join == "open" and not self._not_audited() else 0.0

    def _not_audited(self) -> str:
        """Why the contributions of this run cannot be done again by other peers while it goes on; "" if
        they can."""
        if self.rounds.overlap:
            return (
                "what was trained ahead (rounds.overlap) cannot be done again by other peers, since nobody "
                "keeps the state that it began from; set rounds.overlap = 0 or members.audits = 0"
            )
        if isinstance(self.task, Reinforce):
            return (
                "what a model writes in reinforcement learning differs from machine to machine, and then the "
                "training differs too; set members.audits = 0"
            )
        return ""

    @property
    def total_steps(self) -> int:
        """Inner steps of one peer over the whole run."""
        return self.inner.steps * self.rounds.count

    @property
    def course(self) -> int:
        """Inner steps over which the learning rate goes: those of the run, and of a family from the first step
        of its common start to the last of its paths."""
        return self.total_steps if self.branch is msgspec.UNSET else self.branch.ends

    @property
    def schedule(self) -> Schedule:
        """The rounds of the run, and the inner steps of each. Raises ValueError if they are to follow from
        a budget of bytes, and how large contributions will be is not known."""
        saving = self.rounds.saving
        first = 0 if self.branch is msgspec.UNSET else self.branch.begins
        if saving is msgspec.UNSET:
            return Schedule(self.total_steps, self.rounds.count, first)
        bits = WIRES.find(self.wire.kind).expected_bits(self.wire)
        if bits is None:
            raise ValueError(
                f"rounds.saving: how large contributions of wire.kind = {self.wire.kind!r} are is not known "
                "before the run; leave rounds.saving out, and say inner.steps and rounds.count"
            )
        return within(saving, self.total_steps, self.rounds.peers, bits, first)

    @property
    def block_steps(self) -> int:
        """Inner steps of a block of data: those of a round. With a budget of bytes rounds differ by a step,
        and all data is one block, of which each round takes the next part."""
        return self.inner.steps if self.rounds.saving is msgspec.UNSET else UNENDING

    @property
    def identity(self) -> str:
        """blake3 of the canonical form, which names the merge rule, 64 hex digits."""
        named = msgspec.structs.replace(self, merge=Merge(self.rule))
        return blake3(msgspec.json.encode(named, order="deterministic")).hexdigest()

    @property
    def tokens_per_block(self) -> int:
        """Tokens of `inner.steps` inner steps of one peer: of a round, where all rounds are alike."""
        return self.inner.steps * self.tokens_per_step

    def tokens_of(self, round_: int) -> int:
        """Tokens that one peer of usual speed trains on in a round."""
        return self.schedule.steps_of(round_) * self.tokens_per_step

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one inner step of one peer."""
        return self.inner.batch * self.model.sequence


def _check_description(text: str) -> None:
    """Raises ValueError if a description cannot be shown as it is."""
    if len(text) > DESCRIPTION_LIMIT:
        raise ValueError(
            f"description: {len(text):,} characters; at most {DESCRIPTION_LIMIT:,}. Put the rest on a page "
            "of its own and give its address here"
        )
    if odd := next((c for c in text if not (c.isprintable() or c == "\n")), None):
        raise ValueError(f"description: holds {odd!r}; only text and line breaks are shown")


def _check_rule(rule: str, kind: str) -> None:
    """Refuse a merge rule that does not exist, or needs what this kind of wire does not give."""
    if rule not in RULES.names():
        raise ValueError(unknown("merge.rule", rule, RULES.names()))
    needs = RULES.find(rule).needs
    if not needs <= WIRES.find(kind).gives:
        wires = " or ".join(repr(k) for k in WIRES.names() if needs <= WIRES.find(k).gives)
        rules = " or ".join(
            repr(r) for r in RULES.names() if RULES.find(r).needs <= WIRES.find(kind).gives
        )
        raise ValueError(
            f"merge.rule = {rule!r} needs {' and '.join(sorted(needs))}, which "
            f"wire.kind = {kind!r} does not give; use wire.kind = {wires or 'of a plugin'}, or with "
            f"this wire merge.rule = {rules}"
        )


def _build(raw: dict[str, Any]) -> RunSpec:
    """The specification of a raw table. Raises msgspec.ValidationError, ValueError."""
    if "wire" in raw:
        found = msgspec.convert({"wire": raw["wire"]}, _wire_section(tuple(WIRES.names())))
        raw = raw | {"wire": found.wire}
    return msgspec.convert(raw, RunSpec)


@cache
def _wire_section(kinds: tuple[str, ...]) -> Any:
    """A struct whose field `wire` is one of the kinds that are registered by now."""
    sections: Any = Union[tuple(WIRES.find(kind).section for kind in kinds)]  # noqa: UP007
    return msgspec.defstruct("WireSection", [("wire", sections)])


def parse(text: str, source: str = "run.toml") -> RunSpec:
    """A validated specification from TOML text. Raises SpecError naming the key at fault."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source}: not valid TOML: {error}") from error
    try:
        return _build(raw)
    except (msgspec.ValidationError, ValueError) as error:
        raise SpecError(f"{source}: {_explain(str(error), raw)}") from error


def members(text: str, source: str) -> Members:
    """Section `[members]` of TOML text, whatever the other sections say: they may need a plug-in that is
    not loaded. Raises SpecError."""
    return _section(text, source, "members", Members)


def branch(text: str, source: str) -> Branch:
    """Section `[branch]`, likewise; of a run that has none, as of a common start."""
    return _section(text, source, "branch", Branch)


def rounds(text: str, source: str) -> Rounds:
    """Section `[rounds]`, likewise."""
    return _section(text, source, "rounds", Rounds)


def _section(text: str, source: str, name: str, kind: type[S]) -> S:
    try:
        return msgspec.convert(tomllib.loads(text).get(name, {}), kind)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError) as error:
        raise SpecError(f"{source}: {name}: {error}") from error


def load(path: Path) -> RunSpec:
    """The specification in a file. Raises SpecError."""
    if not path.is_file():
        raise SpecError(f"{path}: no such file; `duckweed new {path}` writes one to start from")
    if path.stat().st_size > SPEC_LIMIT:
        raise SpecError(f"{path}: larger than {SPEC_LIMIT} bytes; is this a run specification?")
    try:
        return parse(path.read_text("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text; is this a run specification?") from error


def override(spec: RunSpec, changes: dict[str, object]) -> RunSpec:
    """A copy with dotted keys set, e.g. {"inner.steps": 30}; another wire.kind starts from that
    kind's defaults. Raises SpecError."""
    raw = msgspec.to_builtins(spec)
    if changes.get("wire.kind", raw["wire"]["kind"]) != raw["wire"]["kind"]:
        raw["wire"] = {}
    for key, value in changes.items():
        *sections, name = key.split(".")
        place = raw
        for section in sections:
            if place is raw and section in ("task", "paths"):  # which are unset by default
                raw.setdefault(section, {})
            if not isinstance(place.get(section), dict):
                known = [name for name, inside in place.items() if isinstance(inside, dict)]
                raise SpecError(f"{key}: no section {section!r}{_near(section, known)}")
            place = place[section]
        place[name] = value
    try:
        return _build(raw)
    except (msgspec.ValidationError, ValueError) as error:
        raise SpecError(_explain(str(error), raw)) from error


def names_tokenizer(text: str, changes: Mapping[str, object]) -> bool:
    """Whether TOML text, or changes by dotted keys, say which tokenizer to take."""
    return "data.tokenizer" in changes or "tokenizer" in tomllib.loads(text).get("data", {})


def with_own_tokenizer(spec: RunSpec, base: Path) -> RunSpec:
    """Of a model that is given with its weights, and whose user named no tokenizer, the tokenizer that
    lies with it; any other specification as it is."""
    source = spec.model.source
    if spec.model.weights != "given":
        return spec
    given = base / Path(source).expanduser()
    if (place := model_folder(given)) != given:
        source = f"{source}/{place.name}"
    if place.is_file():
        source, place = str(Path(source).parent), place.parent
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    if place.is_dir() and not any((place / name).is_file() for name in files):
        return spec
    return override(spec, {"data.tokenizer": source})


def _explain(message: str, raw: dict) -> str:
    """msgspec's message with the dotted key first and the nearest known key for a misspelt one."""
    place = re.search(r" - at `\$\.?([^`]*)`", message)
    where = place.group(1) if place else ""
    text = message[: place.start()] if place else message
    extra = re.search(r"unknown field `([^`]+)`", text)
    if extra:
        section = _fields(where, raw)
        key = ".".join(filter(None, [where, extra.group(1)]))
        known = ", ".join(section)
        return f"{key}: unknown key{_near(extra.group(1), section)} (known here: {known})"
    wrong = re.search(r"[Ii]nvalid (?:enum )?value '([^']*)'", text)
    if wrong:
        options = _options(where, raw)
        if where == WIRES.key:
            return unknown(where, wrong.group(1), options)
        known = ", ".join(map(repr, options))
        near = _near(wrong.group(1), options)
        return f"{where} = {wrong.group(1)!r}: expected one of {known}{near}"
    # A check of a whole section names its key itself.
    return f"{where}: {text}" if where and not text.startswith(where.split(".")[0]) else text


def _type(where: str, raw: dict) -> Any:
    """The type of a section or key."""
    kind: Any = RunSpec
    for name in filter(None, where.split(".")):
        if name == "wire":
            named = (raw.get("wire") or {}).get("kind")
            kind = WIRES.find(named if named in WIRES.names() else DEFAULT_WIRE).section
            continue
        if name == "task":
            kind = TASKS.get(str((raw.get("task") or {}).get("kind")), Text)
            continue
        name, _, inside = name.partition("[")
        kind = next((f.type for f in msgspec.structs.fields(kind) if f.name == name), RunSpec)
        sections = [
            x for x in get_args(kind) if isinstance(x, type) and issubclass(x, msgspec.Struct)
        ]
        kind = sections[0] if sections else kind  # one that may be unset
        if inside and get_origin(kind) is dict:  # whose keys are the user's own
            kind = get_args(kind)[1]
    return kind


def _fields(where: str, raw: dict) -> list[str]:
    """Names of the keys that a section takes."""
    return [field.name for field in msgspec.structs.fields(_type(where, raw))]


def _options(where: str, raw: dict) -> list[str]:
    """The values that a key takes, where they can be listed."""
    if where == "wire.kind":
        return WIRES.names()
    if where == "task.kind":
        return list(TASKS)
    found: list[Any] = []
    for option in get_args(_type(where, raw)):
        # A key that may be left out has the type `Literal[...] | None`.
        found += get_args(option) or (option,)
    return [word for word in found if isinstance(word, str)]


def _near(name: str, known: object) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)  # type: ignore[call-overload]
    return f"; did you mean {near[0]!r}?" if near else ""
