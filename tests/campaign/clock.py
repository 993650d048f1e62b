"""Let the clock jump while a command works: the same results. It needs the library of Debian's package faketime."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from campaign.commands import commands, digests, start
from campaign.trials import Outcomes

LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")

JUMPS = {"an hour ahead": "+3600", "a day ahead": "+86400", "an hour back": "-3600", "a year back": "-31536000"}


def run_clock(folder: Path, names: Sequence[str] = ()) -> Outcomes:
    """Run commands, all but export if there are no `names`; the clock jumps after their first files."""
    outcomes = Outcomes("clock")
    found = [path for path in (os.environ.get("FAKETIME_LIBRARY", ""), *LIBRARIES) if path and Path(path).is_file()]
    if not found:
        outcomes.notes.append("not done: there is no libfaketime (Debian: apt-get install faketime)")
        return outcomes
    for command in commands(folder):
        if command.name == "export" or (names and command.name not in names):
            continue
        expected = dict[str, str]()
        for what, jump in {"no jump": "+0", **JUMPS}.items():
            out, clock = folder / f"{command.name} {what}".replace(" ", "-"), folder / "clock"
            clock.write_text("+0")
            process = start(
                command.arguments, out, folder, LD_PRELOAD=found[0], FAKETIME_TIMESTAMP_FILE=str(clock),
                FAKETIME_DONT_FAKE_MONOTONIC="1", FAKETIME_NO_CACHE="1", FAKETIME_DISABLE_SHM="1",
            )  # fmt: skip
            begun = "**/result.json" if "metrics.json" in command.results else "*"  # a job has ended; the first file
            while process.poll() is None and not any(out.glob(begun)):
                time.sleep(0.01)
            clock.write_text(jump)
            code, results = process.wait(), digests(out, command.results)
            expected = expected or results
            same = not code and results == expected and len(results) >= len(command.results)
            outcomes.counts["the same results" if same else "other results"] += 1
            if not same:
                told = Path(f"{out}.err").read_text()[-300:]
                outcomes.fault(f"{command.name}, {what}: exit code {code}: {told}")
    return outcomes
