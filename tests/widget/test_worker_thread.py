"""The worker: latest wins, commands come first, and a failed job harms nobody."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from shrinkwidget.errors import Cancelled
from shrinkwidget.widgets.worker_thread import Worker

KEY = "an explorer"


def until_cancelled(started: threading.Event, ended: list[str]) -> Callable[[Callable[[], bool]], None]:
    def work(cancelled: Callable[[], bool]) -> None:
        started.set()
        while not cancelled():
            threading.Event().wait(0.001)
        ended.append("cancelled")
        raise Cancelled

    return work


def waiting_for(gate: threading.Event) -> Callable[[Callable[[], bool]], None]:
    def work(_cancelled: Callable[[], bool]) -> None:
        gate.wait(10)

    return work


def test_a_newer_request_cancels_the_running_one_of_its_key() -> None:
    worker, started, ended = Worker(), threading.Event(), list[str]()
    worker.latest(KEY, until_cancelled(started, ended))
    assert started.wait(10)
    worker.latest(KEY, lambda _: ended.append("newest"))
    assert worker.wait(KEY, 10)
    assert ended == ["cancelled", "newest"]


def test_of_waiting_requests_only_the_newest_runs() -> None:
    worker, gate, ran = Worker(), threading.Event(), list[int]()
    worker.urgent("other", waiting_for(gate))
    for number in range(5):
        worker.latest(KEY, lambda _, number=number: ran.append(number))  # type: ignore[misc]
    gate.set()
    assert worker.wait(KEY, 10)
    assert ran == [4]


def test_commands_run_in_order_and_before_what_can_wait() -> None:
    worker, gate, ran = Worker(), threading.Event(), list[str]()
    worker.urgent("other", waiting_for(gate))
    worker.latest(KEY, lambda _: ran.append("figures"))
    worker.urgent(KEY, lambda _: ran.append("compress"))
    worker.urgent(KEY, lambda _: ran.append("save"))
    gate.set()
    assert worker.wait(KEY, 10)
    assert ran == ["compress", "save", "figures"]


def test_forgetting_a_key_cancels_what_runs_and_drops_what_waits() -> None:
    worker, started, ended = Worker(), threading.Event(), list[str]()
    worker.latest(KEY, until_cancelled(started, ended))
    assert started.wait(10)
    worker.urgent(KEY, lambda _: ended.append("never"))
    worker.forget(KEY)
    assert worker.wait(KEY, 10)
    assert ended == ["cancelled"]


def test_the_worker_outlives_a_job_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    worker, ran = Worker(), list[str]()

    def fails(_cancelled: Callable[[], bool]) -> None:
        raise RuntimeError("a bug")

    worker.urgent(KEY, fails)
    worker.urgent(KEY, lambda _: ran.append("after"))
    assert worker.wait(KEY, 10)
    assert ran == ["after"]
    assert "a bug" in caplog.text


def test_waiting_gives_up_when_told_to() -> None:
    worker, gate = Worker(), threading.Event()
    worker.urgent(KEY, waiting_for(gate))
    assert not worker.wait(KEY, 0.01)
    gate.set()
    assert worker.wait(KEY, 10)


def test_a_stopped_worker_has_cancelled_and_ended() -> None:
    worker, started, ended = Worker(), threading.Event(), list[str]()
    worker.latest(KEY, until_cancelled(started, ended))
    assert started.wait(10)
    worker.stop()
    assert ended == ["cancelled"]
    assert worker._thread not in threading.enumerate()


def test_urgent_work_gets_its_turn_while_long_work_polls() -> None:
    worker, started, ended, ran = Worker(), threading.Event(), list[str](), list[str]()
    worker.latest(KEY, until_cancelled(started, ended))
    assert started.wait(10)
    worker.urgent("button", lambda _: ran.append("saved"))
    assert worker.wait("button", 10)
    assert (ran, ended) == (["saved"], [])
    worker.forget(KEY)
    assert worker.wait(KEY, 10)
