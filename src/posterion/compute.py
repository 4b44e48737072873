"""Where batches run, and how they say how far they are: an ordered map over a pool of threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from os import cpu_count
from types import TracebackType
from typing import Protocol, Self, TypeVar

from threadpoolctl import threadpool_limits

__all__ = ["NullProgress", "Stage", "StageProgress", "Workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stage(Protocol):
    """A stage of a run, open in a ``with``."""

    def advance(self, count: int = 1) -> None:
        """Count what has been done."""


class StageProgress(Protocol):
    """Shows how far a stage has come: called with its name, the number of units, and what they are."""

    def __call__(self, stage: str, total: int, unit: str = "particles", /) -> AbstractContextManager[Stage]:
        """Open the stage; its ``advance`` counts units."""


class NullProgress:
    """A `StageProgress` that shows nothing, for library use."""

    def __init__(self, stage: str, total: int, unit: str = "particles") -> None:
        self.stage, self.total, self.unit = stage, total, unit

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""

    def advance(self, count: int = 1) -> None:
        """Do nothing."""


class Workers:
    """A pool of threads whose results come in the order of the items, so sums over them have the same bits.

    Work units (batches of particles, slabs of a volume) never depend on the number of threads; only who
    computes them does. Many small nested parallel regions are slow under load: the BLAS gets one thread per
    worker.

    Parameters
    ----------
    threads : number of threads; all cores of the machine where None
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads if threads is not None else (cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="posterion")
        self._blas_limits = threadpool_limits(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._blas_limits.restore_original_limits()

    def map_ordered(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Apply ``function`` to items, at most ``threads + 1`` of them ahead of what the caller has taken.

        The bound keeps memory independent of the number of items; results are yielded in the items' order.
        """
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(function, item))
                if len(waiting) > self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
