"""A step of another run than the one that is asked, opened when it is needed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from whence.attributor import Step
from whence.attributor.steps import Advance
from whence.runs import is_done, publish

__all__ = ["Later"]


class Later:
    """A step of a run that cannot be opened yet, or is not opened before it must be, since that loads its model.

    Args:
        name: Of the step.
        make: Opens the run and gives the step; called at every use, so it keeps what it opened.
        there: Whether the run can be opened.
        marker: Place that is kept once the step is over, so that the run need not be opened to know; asked once the run
            can be opened.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Step],
        there: Callable[[], bool] = lambda: True,
        marker: Callable[[], Path] | None = None,
    ) -> None:
        self.name, self._make, self._there, self._marker = name, make, there, marker

    def items(self) -> list[Any]:
        """Its items."""
        return self._make().items()

    def tokens(self, item: Any) -> int:
        """Of an item."""
        return self._make().tokens(item)

    def done(self, item: Any) -> bool:
        """Whether an item has been done."""
        return self._make().done(item)

    def run(self, item: Any, shares: tuple[int, int], advance: Advance) -> None:
        """Do an item."""
        self._make().run(item, shares, advance)

    def finished(self) -> bool:
        """Whether the step is over; not before the run can be opened."""
        return self._there() and (self._marked() or self._over(self._make().finished()))

    def finish(self) -> bool:
        """Merge if every item is done."""
        return self._there() and (self._marked() or self._over(self._make().finish()))

    def _marked(self) -> bool:
        return self._marker is not None and is_done(self._marker())

    def _over(self, over: bool) -> bool:
        if over and self._marker is not None:
            with publish(self._marker(), {"step": self.name}):
                pass
        return over
