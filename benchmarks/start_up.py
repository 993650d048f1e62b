"""What one `fn2en predict` costs: processor time, memory and installed packages, in this and other environments.

    OMP_NUM_THREADS=1 python benchmarks/start_up.py docs/images/party.jpg model.onnx runs/mine
    OMP_NUM_THREADS=1 python benchmarks/start_up.py photo.jpg model.onnx --python small/bin/python --repeats 9

Prints a Markdown table: the median of `--repeats` calls, after one that fills the disk's cache. Processor time is that
of all threads together, user and system, so other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

COMMAND = ("-m", "facenet2expnet.cli.main", "predict")
PACKAGES = "import sysconfig; print(sysconfig.get_paths()['purelib'])"


def main(words: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("models", nargs="+", help="ONNX files, model folders or runs")
    parser.add_argument("--python", help="the Python of another environment; this one by default")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args(words)
    python = given.python or sys.executable
    print(f"{packages_mb(python):,.0f} MB of packages\n")
    print("| model | processor time, s | most memory, MB |")
    print("|---|---:|---:|")
    for model in given.models:
        found = [cost([python, *COMMAND, model, str(given.picture)]) for _ in range(given.repeats + 1)][1:]
        seconds, megabytes = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"| {model} | {seconds:.2f} | {megabytes:.0f} |")


def cost(command: list[str]) -> tuple[float, float]:
    """Processor seconds and the most memory in MB of a process.

    A new process counts the memory of the one that starts it as its own, so this script imports no large package.

    Raises:
        SystemExit: If it fails.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return used.ru_utime + used.ru_stime, used.ru_maxrss * unit / 1e6


def packages_mb(python: str) -> float:
    """Size of all packages of an environment, in MB."""
    done = subprocess.run([python, "-c", PACKAGES], capture_output=True, text=True, check=True)
    files = (Path(root) / name for root, _, names in os.walk(done.stdout.strip()) for name in names)
    return sum(file.lstat().st_size for file in files) / 1e6


if __name__ == "__main__":
    main()
