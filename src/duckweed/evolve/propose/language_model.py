"""A language model as a proposer, behind any endpoint that speaks OpenAI's chat completions.

It is sent numbers and registry keys; of its answer, numbers and words of the registry are kept and
everything else is dropped. An endpoint that is down, slow or answers nonsense costs its own share of
the proposals and no more.
"""

import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlparse

from duckweed.evolve.decide.requests import CampaignState
from duckweed.evolve.space.recipe import DECODER
from duckweed.evolve.space.registry import Registry, RegistryError
from duckweed.evolve.trial_spec import Provenance

ANSWER_LIMIT = 1 << 18  # bytes of an answer
SECONDS = 60.0  # until an answer must be complete
HISTORY = 24  # screened differences that it is told about
SYSTEM = (
    "You improve the recipe of a small language model's training. Answer with JSON only: a list of "
    "at most {count} objects, each a difference to the parent: keys and values from the switches."
)


class EndpointError(ValueError):
    """The endpoint gave no usable answer; the message says why."""


class LanguageModel:
    """url: the base such as http://127.0.0.1:8000/v1; model: its name there; key: sent as a bearer
    token where given; seconds: until an answer must be complete."""

    name: str = "llm"
    provenance: Provenance = "adapted"

    def __init__(
        self, registry: Registry, url: str, model: str, key: str = "", seconds: float = SECONDS
    ) -> None:
        if urlparse(url).scheme not in ("http", "https"):
            raise EndpointError(f"{url}: an endpoint's address starts with http:// or https://")
        self.registry, self.url, self.model = registry, url.rstrip("/"), model
        self._key, self._seconds = key, seconds
        self.fault = ""  # why the last question brought no usable answer

    def propose(self, state: CampaignState, count: int, seed: int) -> list[object]:
        """Differences, unchecked; none, with `fault` set, where there is no usable answer."""
        self.fault = ""
        try:
            return parse(self._ask(self.question(state, count), seed))[:count]
        except (EndpointError, OSError, ValueError) as error:
            self.fault = f"{type(error).__name__}: {error}"[:200]
            return []

    def question(self, state: CampaignState, count: int) -> list[dict[str, str]]:
        """The messages: registry keys and numbers."""
        switches = [
            {"key": s.key, "values": list(s.values)}
            if s.kind == "choice"
            else {"key": s.key, "kind": s.kind, "low": s.low, "high": s.high}
            for s in self.registry.switches
        ]
        tried = [
            {"difference": x.difference, "gain": round(x.gain, 5), "share": x.share}
            for x in state.screened[-HISTORY:]
            if x.gain > -float("inf")
        ]
        facts = {"switches": switches, "parent": state.parent, "screened": tried}
        return [
            {"role": "system", "content": SYSTEM.format(count=count)},
            {"role": "user", "content": json.dumps(facts, sort_keys=True)},
        ]

    def _ask(self, messages: list[dict[str, str]], seed: int) -> str:
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": 1.0,
            "seed": seed % 2**31,
            "max_tokens": 2000,
        }
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), headers
        )
        try:
            with _OPENER.open(request, timeout=self._seconds) as reply:
                raw = _limited(reply, self._seconds)
        except urllib.error.HTTPError as error:
            raise EndpointError(f"the endpoint answered {error.code}") from error
        try:
            found: Any = json.loads(raw)
            content = found["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError, RecursionError) as error:
            raise EndpointError("the answer is not a chat completion") from error
        if not isinstance(content, str):
            raise EndpointError("the answer holds no text")
        return content


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are not followed: the key is for this endpoint alone."""

    def redirect_request(self, *args: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _limited(reply: Any, seconds: float) -> bytes:
    """The body, at most ANSWER_LIMIT bytes, within the time: a slow trickle must not block the campaign."""
    ends, parts, size = time.monotonic() + seconds, [], 0
    while part := reply.read1(65536):
        parts.append(part)
        size += len(part)
        if size > ANSWER_LIMIT:
            raise EndpointError(f"the answer is longer than {ANSWER_LIMIT} bytes")
        if time.monotonic() > ends:
            raise EndpointError(f"no complete answer within {seconds:g} s")
    return b"".join(parts)


def parse(text: str) -> list[object]:
    """The first JSON list of objects in an answer, prose around it left out. Raises EndpointError."""
    start = text.find("[")
    if start < 0:
        raise EndpointError("the answer holds no list")
    try:
        found, _ = DECODER.raw_decode(text[start:])
    except RegistryError as error:
        raise EndpointError(str(error)) from error
    except RecursionError as error:
        raise EndpointError("the answer is nested too deeply") from error
    return [item for item in found if isinstance(item, dict)]
