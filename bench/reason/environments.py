"""Every environment of reasoning-gym, tried as a run would use it.

`python -m bench.reason.environments` makes PROBLEMS problems of each in the process in which a run makes them, and looks
whether the environment's own answer is right, whether wrong answers are refused, and whether the same number gives the
same problem again. What fails is printed with its reason. Writes bench/results/environments.json (docs/reason.md).
"""

import json
import logging
import multiprocessing
import time
from collections.abc import Iterator
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

from duckweed.learn.data.reading import DataError
from duckweed.learn.tasks.environments import make
from duckweed.learn.tasks.verifier import Verifier, VerifierFailed
from duckweed.run.task.rollouts import RIGHT

RESULT = Path(__file__).parents[1] / "results" / "environments.json"
PROBLEMS = 5
SECONDS = 10.0  # for a check, on a busy machine
BEGIN = 20.0  # seconds of an idle core, in which most environments begin a hundred times
NONSENSE = ("", "no idea", "-987654321")


def _taken(verifier: Verifier, which: int, number: int, answer: str) -> bool:
    try:
        return verifier.score(which, number, answer) >= RIGHT
    except VerifierFailed:
        return False  # a check that raises counts as wrong


def faults(which: int, verifiers: list[Verifier]) -> Iterator[str]:
    """What is wrong with an environment."""
    one, again = verifiers
    try:
        drawn = [one.draw(which, key, False) for key in range(PROBLEMS)]
        if drawn != [again.draw(which, key, False) for key in range(PROBLEMS)]:
            yield "another process makes other problems of the same numbers"
        for number, _, answer in drawn:
            if (score := one.score(which, number, answer)) < RIGHT:
                yield f"gives its own answer {score:.2g}: {answer[:60]!r}"
            for wrong in NONSENSE:
                if wrong != answer and _taken(one, which, number, wrong):
                    yield f"takes {wrong!r} where the answer is {answer[:60]!r}"
    except (DataError, VerifierFailed) as error:
        yield str(error)


def _begin(name: str, says: Connection) -> None:
    logging.disable()
    try:
        environment = make(name, {})
        environment.question(0)
        says.send("")
    except BaseException as error:
        says.send(f"{type(error).__name__}: {error}"[:200])


def begins(name: str) -> list[str]:
    """Why an environment does not begin; none: it does. In a process of its own: some never end."""
    context = multiprocessing.get_context("fork")
    hears, says = context.Pipe(duplex=False)
    process = context.Process(target=_begin, args=(name, says))
    process.start()
    told = hears.recv() if hears.poll(BEGIN) else f"does not begin within {BEGIN:g} s"
    process.kill()
    process.join()
    return [told] if told else []


def main() -> None:
    import reasoning_gym

    found: dict[str, list[str]] = {}
    for name in sorted(reasoning_gym.factory.DATASETS):
        found[name] = begins(name)
        if found[name]:
            print(f"{name}: {found[name][0]}", flush=True)
    made = [name for name, told in found.items() if not told]
    verifiers = [Verifier([(name, {}) for name in made], seconds=SECONDS) for _ in range(2)]
    for which, name in enumerate(made):
        began = time.perf_counter()
        found[name] = list(dict.fromkeys(faults(which, verifiers)))
        told = "; ".join(found[name]) or "in order"
        print(f"{name} ({time.perf_counter() - began:.1f} s): {told}", flush=True)
    for verifier in verifiers:
        verifier.close()
    wrong = {name: told for name, told in found.items() if told}
    result = {"reasoning-gym": version("reasoning_gym"), "tried": len(found), "faults": wrong}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found) - len(wrong)} of {len(found)} environments are in order")


if __name__ == "__main__":
    main()
