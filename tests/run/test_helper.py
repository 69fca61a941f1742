"""A process for work that may hang."""

import signal
import threading
import time

import pytest

from duckweed.run.task.helper import Helper, HelperFailed

ROWS = {"environments": [], "rows": [[["two and two?", "4"]], "exact"], "plugins": [], "share": 0.1}
QUESTION = {"score": [0, 0, "4"]}


@pytest.fixture
def helper():
    one = Helper("duckweed.learn.tasks.verifier", ROWS)
    one.begin()
    yield one
    one.close()


def test_a_process_that_waits_for_a_busy_machine_is_not_late(helper):
    helper._process.send_signal(signal.SIGSTOP)
    going_on = threading.Timer(1.0, helper._process.send_signal, [signal.SIGCONT])
    began = time.monotonic()
    going_on.start()
    assert helper.ask(QUESTION, 0.5) == 1
    assert time.monotonic() - began >= 1.0
    going_on.join()


def test_a_process_that_sleeps_for_ever_is_ended_and_the_next_question_answered(helper):
    helper._process.send_signal(signal.SIGSTOP)
    with pytest.raises(HelperFailed, match="took longer than"):
        helper.ask(QUESTION, 0.1)
    assert helper.ask(QUESTION, 0.5) == 1
