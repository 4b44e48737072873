"""Ordered map over threads: order, bound on work ahead, errors, and the BLAS kept to one thread."""

import threading
import time
from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_info

from posterion.compute import NullProgress, Workers


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    def slow_when_early(item: int) -> int:
        time.sleep(0.002 * (5 - item % 5))
        return item * item

    with Workers(threads) as workers:
        assert list(workers.map_ordered(slow_when_early, range(23))) == [i * i for i in range(23)]


@pytest.mark.parametrize("threads", [1, 3])
def test_items_are_taken_only_a_few_ahead(threads: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 100:
            taken += 1
            yield taken

    with Workers(threads) as workers:
        for received, _ in enumerate(workers.map_ordered(lambda item: item, items()), start=1):
            assert taken <= received + threads


def test_as_many_run_at_once_as_there_are_threads() -> None:
    meeting = threading.Barrier(3, timeout=600)  # in place of waiting for ever
    with Workers(3) as workers:
        assert len(list(workers.map_ordered(lambda _: meeting.wait(), range(3)))) == 3


def test_an_error_reaches_the_caller_and_stops_the_rest() -> None:
    done: list[int] = []

    def fails_at_two(item: int) -> int:
        if item == 2:
            raise ValueError("item two")
        done.append(item)
        return item

    with Workers(1) as workers, pytest.raises(ValueError, match="item two"):
        list(workers.map_ordered(fails_at_two, range(50)))
    assert max(done) < 5


def test_linear_algebra_has_one_thread_inside_and_its_own_number_after() -> None:
    def blas_threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = blas_threads()
    with Workers(2):
        assert set(blas_threads()) <= {1}
    assert blas_threads() == before


def test_default_is_all_cores() -> None:
    with Workers() as workers:
        assert workers.threads >= 1


def test_null_progress_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with NullProgress("expectation", 3) as stage:
        stage.advance(3)
    assert capsys.readouterr() == ("", "")
