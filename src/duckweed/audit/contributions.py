"""Contributions of a peer, done again in the order in which they were handed in.

What a peer carries from one contribution to the next (residual, inner moments) is no part of the ledger,
but it follows from it: the first contribution begins with nothing carried, and each one that counted (or was
left out by a rule that remembers peers) leaves what the next begins with. So one contribution is audited by doing all those before it again.
"""

from collections.abc import Callable, Iterator

import msgspec

from duckweed.audit import verdict
from duckweed.audit.claims import Claims, States
from duckweed.audit.difference import Difference, difference
from duckweed.audit.findings import Finding, NotHere, Outcome
from duckweed.audit.replay import Replayed, replay
from duckweed.learn.learner import Diverged, Learner
from duckweed.ledger.entries import Writing
from duckweed.merge.announcement import sizes_hash
from duckweed.round import answers
from duckweed.round.answers import Given
from duckweed.round.blocks import Span, lead
from duckweed.round.worker import Carried, Worker
from duckweed.run.state import State

Report = Callable[[int, int, int, int], None]
"""Told the round, the peer, the steps done and the steps of the span."""


class _Link(msgspec.Struct):
    """What a peer carries into its next contribution, as it was computed here."""

    carried: Carried | None = None
    same: int = 0
    """Contributions that it was computed from and that came out the same, to the last bit."""
    near: int = 0
    """Those that came out nearly the same: what is carried here is nearly what the peer carried."""
    off: verdict.Limits = verdict.distances(None)
    """How far off the last of them was."""
    broken: int | None = None
    """The round of one that did not come out at all: what the peer carried since then is not known."""


class _Trial(msgspec.Struct):
    """A contribution, done again from something that its peer may have carried."""

    done: Replayed
    found: Difference | None
    """None: the same bytes."""
    same_sizes: bool
    """Whether the announced sizes of the tensors have the hash that the ledger keeps, or it keeps none."""
    wrong: list[str]
    """What is further off than it may be, in words."""

    @property
    def same(self) -> bool:
        """Whether it came out the same to the last bit, as far as the ledger tells."""
        return self.found is None and self.same_sizes


class Contributions:
    """The contributions of one peer."""

    def __init__(
        self,
        claims: Claims,
        states: States,
        learner: Learner,
        peer: int,
        report: Report = lambda round_, peer, done, steps: None,
    ) -> None:
        """learner: with the run's data. report: is told of every inner step."""
        self.claims, self.states, self.learner = claims, states, learner
        self.peer, self.report = peer, report
        self._link = _Link()
        self._done = -1  # the last round that was done again

    def audit(self, round_: int) -> Finding:
        """Do the contribution to a round again, after those before it that it follows from and that were not
        done here yet. To be called in the order of the rounds."""
        try:
            entry = self.claims.rounds[round_]
            said = entry.writings.get(self.peer)
            if said and self.peer not in entry.contributions:
                return self._written(said)
            for before in self.claims.carried(self.peer, round_):
                if before > self._done:
                    self._again(before)
            return self._again(round_)
        except NotHere as error:
            return self._finding(round_, Outcome.MISSING, detail=str(error))
        except (Diverged, ValueError, ArithmeticError) as error:
            detail = f"what the ledger names cannot be done: {error}"
            return self._finding(round_, Outcome.DIFFERS, detail=detail)

    def _again(self, round_: int) -> Finding:
        """Raises NotHere; Diverged, ValueError or ArithmeticError for what no peer can have done."""
        link = self._link
        trial = self._try(round_, link)
        note = ""
        if trial.wrong and link.carried is not None:
            # After a restart that lost its residual an honest peer goes on with nothing carried.
            without = self._try(round_, _Link())
            if not without.wrong:
                trial, link = without, _Link()
                note = "; made with nothing carried, as after a restart that lost what the peer carried"
        finding = self._judged(round_, trial, link, note)
        if self.peer in self.claims.rounds[round_].closed.carrying():
            self._link = _Link(
                trial.done.carried,
                link.same + trial.same,
                link.near + (not trial.same),
                verdict.distances(trial.found),
                round_ if finding.outcome == Outcome.DIFFERS else link.broken,
            )
        self._done = round_
        return finding

    def _try(self, round_: int, link: _Link) -> _Trial:
        """Raises NotHere; Diverged, ValueError or ArithmeticError for what no peer can have done."""
        claims, peer = self.claims, self.peer
        said = claims.rounds[round_].contributions.get(peer)
        span = claims.span(round_, peer)
        if said is None or span is None:
            raise NotHere(f"peer {peer} handed in nothing for round {round_}")
        claimed = self.states.blobs.read(said.blob)
        earlier = self._earlier(round_, said.ahead, span)
        state = self.states.at(round_)
        done = replay(
            claims.spec, claims.layout, self.learner, state, span, link.carried,
            peer=peer, earlier=earlier, given=self._given(round_, span),
            report=lambda done, loss: self.report(round_, peer, done, span.steps),
        )  # fmt: skip
        made, found, wrong = done.contribution, None, []
        if made.announcement.blob != said.blob:
            found = difference(claims.spec, claims.layout, state.shared, claimed, made.blob)
            wrong = list(verdict.faults(found, self._limits(link)))
        wrong += verdict.misstated(said.tokens, said.loss, made.announcement)
        if made.announcement.rollouts != said.rollouts:
            wrong.append(
                "its model wrote something else, as other weights do, and machines of another kind"
            )
        sizes = sizes_hash(made.announcement.rms)
        return _Trial(done, found, said.sizes in ("", sizes), wrong)

    def _given(self, round_: int, span: Span) -> Given:
        """The answers of others that a span of a round was learnt from. Raises NotHere."""
        before = self.claims.rounds.get(round_ - 1)
        writings = before.writings.values() if before else ()
        found = [
            (said, self.states.blobs.read(said.rollouts))
            for said in answers.meeting(writings, span)
        ]
        return answers.given(self.claims.spec, span, found)

    def _written(self, said: Writing) -> Finding:
        """Write the answers of a peer again that only writes. Raises NotHere; Diverged, ValueError or ArithmeticError for
        what no peer can have done."""
        claims, span = self.claims, answers.span_of(said)
        worker = Worker(claims.spec, claims.layout, self.learner)
        made = worker.write(
            self.states.at(said.round), self.peer, span,
            lambda done, loss: self.report(said.round, self.peer, done, span.steps),
        ).writing  # fmt: skip
        told = f"answers to {said.steps} steps of block {said.block}, {said.tokens:,} tokens"
        same = made.rollouts == said.rollouts
        if not same:
            told += "; its model wrote something else, as other weights do, and machines of another kind"
        outcome = Outcome.SAME if same else Outcome.DIFFERS
        return Finding(
            "answers", outcome, said.round, self.peer, told, said.rollouts, made.rollouts
        )

    def _limits(self, link: _Link) -> verdict.Limits:
        """How far off the next contribution may be."""
        return verdict.grown(verdict.limits(self.claims.spec.inner.precision), link.off)

    def _earlier(self, round_: int, ahead: int, span: Span) -> State | None:
        """The state that the first steps began from, if they were trained ahead. Raises NotHere."""
        if not ahead:
            return None
        wanted = lead(self.claims.spec.rounds.overlap, span.steps)
        if ahead != wanted or not round_:
            raise NotHere(f"{ahead} steps trained ahead, where {wanted if round_ else 0} can be")
        return self.states.at(round_ - 1)

    def _judged(self, round_: int, trial: _Trial, link: _Link, note: str) -> Finding:
        said, made = self.claims.rounds[round_].contributions[self.peer], trial.done.contribution
        announced, found = made.announcement, trial.found
        outcome = Outcome.SAME if trial.same else Outcome.NEAR
        told = (
            f"{announced.steps} steps of block {announced.block}, {announced.tokens:,} tokens, loss "
            f"{announced.loss:.4f}: "
        )
        told += (
            f"{found.differ:,} of {found.codes:,} codes differ, distance {found.distance:.3g}"
            if found
            else f"all {self.claims.layout.total:,} codes"
        )
        if not trial.same_sizes:
            told += "; announced sizes of another hash, as a machine of another kind has them too"
        if link.near and found:
            note += (
                f"; what the peer carried was computed from {link.same + link.near} contributions, of "
                f"which {link.near} did not come out the same to the last bit"
            )
        if trial.wrong and link.broken is not None:
            outcome = Outcome.MISSING
            note += (
                f"; cannot be judged: the contribution to round {link.broken} differs, so that it is not "
                "known what the peer carried"
            )
        elif found and self._limits(link).whole >= verdict.UNTOLD:
            outcome = Outcome.MISSING
            note += (
                "; cannot be judged here: over these contributions the differences have grown too large. "
                "Audit it on a machine of the peer's kind, with as many threads"
            )
        elif trial.wrong:
            outcome = Outcome.DIFFERS
            note += "".join(f"; {one}" for one in trial.wrong)
        return self._finding(round_, outcome, told + note, said.blob, announced.blob, found)

    def _finding(
        self,
        round_: int,
        outcome: Outcome,
        detail: str,
        claimed: str = "",
        recomputed: str = "",
        found: Difference | None = None,
    ) -> Finding:
        return Finding(
            "contribution", outcome, round_, self.peer, detail, claimed, recomputed, found
        )


def handed_in(claims: Claims, peer: int) -> Iterator[int]:
    """The rounds whose entries list something of a peer, in order."""
    entries = sorted(claims.rounds.items())
    return (n for n, x in entries if peer in x.contributions or peer in x.writings)
