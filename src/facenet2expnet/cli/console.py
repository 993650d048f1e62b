"""Progress and messages: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)  # fmt: skip

PLAIN_WIDTH = 140
SECONDS_BETWEEN_LINES = 30.0

out = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
err = Console(stderr=True, highlight=False)


class Display:
    """Shows how far the work is; this one shows nothing."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` of something are done."""

    def of(self, what: str) -> Callable[[int, int], None]:
        """Return a progress callback for one thing."""
        return partial(self, what)


class Lines(Display):
    """A plain line now and then."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self.last > SECONDS_BETWEEN_LINES:
            print(f"  {what}: {done:,} of {total:,}", file=sys.stderr, flush=True)
            self.last = time.monotonic()


class Bar(Display):
    """A bar for everything that is being done now; it disappears when that is done."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if done < total and what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what, total=total)
        if what not in self.tasks:
            return
        self.bars.update(self.tasks[what], completed=done, total=total)
        if done >= total:
            self.bars.remove_task(self.tasks.pop(what))


@contextmanager
def progress(quiet: bool = False, *, bar: bool = True) -> Iterator[Display]:
    """Show progress and log messages of the package while a command runs; if quiet, warnings only.

    Args:
        bar: False for a command with a live view of its own on the terminal, which allows for one only.
    """
    package = logging.getLogger("facenet2expnet")
    rich_shown = sys.stderr.isatty() and not quiet
    handler: logging.Handler = logging.StreamHandler()
    if rich_shown:  # messages appear above the bars
        plain = NullHighlighter()
        handler = RichHandler(console=err, highlighter=plain, show_time=False, show_level=False, show_path=False)
    handler.setLevel(logging.WARNING if quiet else logging.INFO)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = package.level
    package.setLevel(logging.INFO)
    package.addHandler(handler)
    try:
        if rich_shown and bar:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err, transient=True) as bars:
                yield Bar(bars)
        else:
            yield Display() if rich_shown or quiet else Lines()
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
