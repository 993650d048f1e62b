"""Progress and messages: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

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


class Screen:
    """Standard output or error that never stops the work: what can't be shown is shown otherwise, or not at all.

    Characters that the terminal does not have are written as \\xff. When nobody reads any more, as after `| head -1`,
    the rest is dropped.

    Attributes:
        lost: the error by which text was lost, other than a closed pipe; None if there was none.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost: OSError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write a text; always succeeds."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written; always succeeds."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        if error.errno != errno.EPIPE:
            self.lost = self.lost or error
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())  # also for what is still in the stream's buffer
        os.close(nothing)


@contextmanager
def screens() -> Iterator[None]:
    """Make standard output and error `Screen`s while a command runs.

    Raises:
        OSError: At the end, if standard output could not be written, as to a file on a full disk.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and Screen(stream) for stream in before)
    shown = sys.stdout
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = before
        if isinstance(shown, Screen) and shown.lost:
            raise OSError(shown.lost.errno, shown.lost.strerror, "standard output")


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
