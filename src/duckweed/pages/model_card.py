"""A model card: what a model was trained on, how, by whom, and how that can be checked."""

from importlib.metadata import version

import msgspec

from duckweed.pages.live.follow import Follower
from duckweed.pages.live.sections import name_of, plain, shown, unit, unseen
from duckweed.pages.page import templates
from duckweed.pages.run_summary import readable
from duckweed.run import toml
from duckweed.run.units import show_count, show_time


def model_card(run: Follower, name: str) -> str:
    """The card of a finished run's model as Markdown with the hub's header. name: on the hub."""
    spec, facts = run.spec, run.genesis
    measured = unseen(run)
    peers = sorted(run.peers.values(), key=lambda x: (-x.tokens, x.index))
    text = run.samples[max(run.samples)] if run.samples else ""
    return (
        templates()
        .get_template("model_card.md")
        .render(
            name=name,
            description=""
            if spec.description is msgspec.UNSET
            else _plain_paragraphs(spec.description),
            parameters=f"{facts.parameters:,}" if facts else "an unknown number of",
            source=plain(spec.model.source),
            scratch=spec.model.weights == "scratch",
            data=[plain(x) for x in spec.data.paths],
            data_hash=facts.data if facts else "",
            tokenizer=plain(spec.data.tokenizer),
            tokens=show_count(run.tokens),
            rounds=len(run.rounds),
            seconds=show_time(sum(x.seconds or 0.0 for x in run.rounds.values())),
            unit=unit(run),
            began=f"{shown(run, measured[0][1]):.3f}" if len(measured) > 1 else None,
            loss=f"{shown(run, measured[-1][1]):.3f}" if measured else None,
            peers=[(name_of(run, x.key), show_count(x.tokens), x.counted) for x in peers if x.counted],
            sample=readable(text).replace("```", "'''").strip(),
            specification=toml.write(spec),
            identity=spec.identity,
            state=run.agreed[1],
            head=run.head,
            entries=run.entries,
            leader=run.leader,
            version=version("duckweed"),
        )
    )  # fmt: skip


def _plain_paragraphs(text: str) -> str:
    return "\n\n".join(plain(x, len(text)) for x in text.split("\n") if x.strip())
