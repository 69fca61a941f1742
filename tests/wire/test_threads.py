"""Work that threads share."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from duckweed.wire import threads


@pytest.fixture(params=[1, 2, 5])
def count(request, monkeypatch):
    monkeypatch.setattr(threads, "_count", request.param)
    return request.param


@pytest.mark.parametrize("parts", [0, 1, 2, 300])
def test_every_part_is_worked_on_once_and_results_keep_their_order(count, parts):
    calls = []
    assert threads.each(lambda n: calls.append(n) or -n, range(parts)) == [-n for n in range(parts)]
    assert sorted(calls) == list(range(parts))


def test_as_many_threads_as_were_asked_for_are_at_work_at_once(count):
    together = threading.Barrier(count)
    assert threads.each(lambda _: together.wait(timeout=20), range(count)) is not None
    assert not together.broken


@pytest.mark.parametrize("bad", [0, 7, 19])
def test_what_a_part_raises_is_raised_when_no_thread_is_at_work_any_more(count, bad):
    running, ended = set(), set()

    def work(number):
        running.add(number)
        try:
            if number == bad:
                raise ArithmeticError(number)
        finally:
            ended.add(number)

    with pytest.raises(ArithmeticError, match=str(bad)):
        threads.each(work, range(20))
    assert running == ended


def test_when_a_part_fails_the_others_end_with_what_they_are_at(count):
    begun, failed = [], threading.Event()

    def work(number):
        begun.append(number)
        if number == 0:
            failed.set()
            raise ArithmeticError
        failed.wait(timeout=20)
        time.sleep(0.01)  # the thread that failed is to come to its end meanwhile

    with pytest.raises(ArithmeticError):
        threads.each(work, range(1000))
    assert len(begun) < 500


def test_work_may_share_out_work_and_so_may_several_callers(count):
    def inner(n):
        return threads.each(lambda m: n * m, range(50))

    wanted = [[n * m for m in range(50)] for n in range(50)]
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(threads.each, inner, range(50)) for _ in range(4)]
        assert all(one.result(timeout=60) == wanted for one in asked)
