"""Answers that peers wrote who do not train: which of them a trained span learns from. No torch.

What the entry of a round lists is learnt from in the next round, by whoever is given a span with a step that it was
written for. So the ledger alone says what a contribution was made from.
"""

import logging
from collections.abc import Iterable, Mapping

from duckweed.ledger.entries import Writing
from duckweed.round.blocks import Span
from duckweed.run.spec import RunSpec
from duckweed.run.task import rollouts as packing
from duckweed.run.task.rollouts import Rollouts, RolloutsError

log = logging.getLogger(__name__)
Given = Mapping[int, Rollouts]
"""Inner step, counted within the block -> the answers that are learnt from in it."""


def span_of(said: Writing) -> Span:
    """The span that answers were written for."""
    return Span(said.block, said.first, said.steps)


def meeting(writings: Iterable[Writing], span: Span) -> list[Writing]:
    """Those that were written for a step of this span."""
    return [said for said in writings if span.meets(span_of(said))]


def given(spec: RunSpec, span: Span, found: Iterable[tuple[Writing, bytes]]) -> dict[int, Rollouts]:
    """What is learnt from in the steps of a span. found: each with its blob. One that cannot be read is passed over, by
    every machine alike."""
    steps: dict[int, Rollouts] = {}
    for said, blob in found:
        try:
            parts = packing.split(packing.decode(blob, spec, said.steps), said.steps)
        except RolloutsError as error:
            log.warning("the answers of peer %d cannot be read: %s", said.peer, error)
            continue
        steps |= {said.first + n: part for n, part in enumerate(parts)}
    return {step: part for step, part in steps.items() if span.first <= step < span.end}
