"""Progress bars on standard error: done/total, samples/s, ETA, dropped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..pipeline.store.printing import printable
from .exits import raise_if_interrupted

if TYPE_CHECKING:
    from typing_extensions import Self

    from ..model.runs import Step
    from ..pipeline.build.report import Progress


class _Bar:
    """A bar that appears when there is something to show, and is closed at the end of a `with`."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class BuildBar(_Bar):
    """The bar of a build; it appears with the first progress report."""

    def update(self, progress: Progress) -> None:
        """Called at least once a second while tasks run."""
        raise_if_interrupted()
        if self._bar is None:
            self._bar = tqdm(total=progress.total, unit="samples", desc="building", smoothing=0.05, mininterval=0.5)
        self._bar.set_postfix_str(f"dropped {progress.dropped}", refresh=False)
        self._bar.update(progress.done - self._bar.n)

    def message(self, text: str) -> None:
        tqdm.write(
            f"{printable(text)}\n", file=sys.stderr, end=""
        )  # in one piece: an interrupt between the two joins its sentence to it


class TrainingBar(_Bar):
    """The bar of a training, and a line after each epoch."""

    is_shown = False

    def start(self, total: int | None) -> None:
        """Before the first step: samples of all epochs; None in a process that shows nothing."""
        raise_if_interrupted()
        self.is_shown = total is not None
        self._bar = tqdm(
            desc="training", unit="samples", mininterval=0.5, smoothing=0.05, disable=total is None, total=total
        )

    def step(self, step: Step) -> None:
        bar = self._bar
        assert bar is not None
        bar.set_postfix_str(
            f"epoch {step.epoch + 1}, loss {step.loss:.3f}, accuracy {step.accuracy:.2f}", refresh=False
        )
        target = step.step * step.samples
        if bar.n == 0 and target > step.samples:  # a resumed run: what was done before does not count as speed
            bar.initial = bar.n = target - step.samples
        bar.update(step.samples)

    def epoch(self, summary: dict[str, Any]) -> None:
        tqdm.write(
            f"epoch {summary['epoch'] + 1}: validation accuracy {summary['val_accuracy']:.3f}, NLL "
            f"{summary['val_nll']:.3f} on {summary['val_n']} samples",
            file=sys.stderr,
        )


def tracked_after(bar: _Bar) -> Callable[[Collection[Any], str], Iterable[Any]]:
    """`tracked` once a bar has come to its end."""

    def track(steps: Collection[Any], what: str) -> Iterable[Any]:
        bar.close()
        return tracked(steps, what)

    return track


def tracked(steps: Collection[Any], what: str) -> Iterable[Any]:
    """The steps, with a bar where there are any."""
    return tqdm(steps, desc=what, unit="steps") if len(steps) else steps


@contextmanager
def counting(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar fed by update(done, total)."""
    bar: tqdm[Any] = tqdm(desc=description, unit="images", mininterval=0.5, disable=False, leave=True, delay=1)

    def update(done: int, total: int) -> None:
        raise_if_interrupted()
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield update
    finally:
        bar.close()
