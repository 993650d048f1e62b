"""Run the campaign: make campaign ARGS="--trials 10000 --kills 100 --seed 0"."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from campaign import clock, determinism, disk, files, kills, pictures, threads
from campaign.trials import Limits, Outcomes, run_trials

PARTS = ("pictures", "files", "kills", "disk", "clock", "determinism", "threads", "processes")


def run(
    parts: list[str], trials: int, killed: int, seed: int, folder: Path, first: int = 0, commands: Sequence[str] = ()
) -> list[Outcomes]:
    """Run parts of the campaign, and print each as it ends."""
    found, numbers = [], range(first, first + trials)
    for part in parts:
        if part == "pictures":
            found.append(run_trials(part, pictures.make, numbers, seed, folder / part, Limits(pictures.SECONDS)))
        elif part == "files":
            found.append(run_trials(part, files.make, numbers, seed, folder / part, Limits(seconds=10)))
        elif part == "threads":
            found.append(threads.run_threads(trials))
        elif part == "processes":
            found.append(threads.run_processes())
        else:
            (folder / part).mkdir(parents=True)
            if part == "kills":
                found.append(kills.run_kills(killed, seed, folder / part, commands))
            elif part == "determinism":
                found.append(determinism.run_determinism(folder / part))
            else:
                found.append({"disk": disk.run_disk, "clock": clock.run_clock}[part](folder / part, commands))
        print("\n".join(found[-1].lines()), flush=True)
    return found


def main() -> int:
    """Read the options, run, and give 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="make campaign", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument("--trials", type=int, default=10_000, help="damaged pictures, and damaged other files")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial, to do one again")
    parser.add_argument("--kills", type=int, default=17, help="kills of each of six commands")
    parser.add_argument(
        "--commands", default="", help="of kills, disk and clock, as 'train,compare --jobs 2'; all by default"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    commands = [name for name in given.commands.split(",") if name]
    found = run(given.parts.split(","), given.trials, given.kills, given.seed, folder, given.first, commands)
    print(f"what had a fault is in {folder}")
    return int(any(outcomes.faults for outcomes in found))


if __name__ == "__main__":
    sys.exit(main())
