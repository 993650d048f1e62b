"""The cost of a command, measured on small processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import start_up


def test_a_process_that_computes_and_fills_memory() -> None:
    code = "import time\nkept = bytearray(60_000_000)\nwhile time.process_time() < 0.3: pass"
    folder, command = str(Path(start_up.__file__).parent), [sys.executable, "-c", code]
    measure = f"import sys; sys.path.insert(0, {folder!r}); import start_up; print(*start_up.cost({command!r}))"
    done = subprocess.run([sys.executable, "-c", measure], capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    assert 0.3 <= seconds < 3
    assert 60 < megabytes < 300


def test_a_command_that_fails_is_not_measured() -> None:
    with pytest.raises(SystemExit, match="ended with 3"):
        start_up.cost([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_row_for_every_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    costs = iter([(9.0, 900.0), (1.0, 100.0), (3.0, 120.0), (2.0, 110.0)] * 2)
    asked = []
    monkeypatch.setattr(start_up, "cost", lambda command: asked.append(command) or next(costs))
    monkeypatch.setattr(start_up, "packages_mb", lambda python: 1234.0)
    start_up.main(["a.jpg", "a.onnx", "run", "--repeats", "3", "--python", "py"])
    assert asked[0] == ["py", "-m", "facenet2expnet.cli.main", "predict", "a.onnx", "a.jpg"]
    assert capsys.readouterr().out.splitlines() == [
        "1,234 MB of packages",
        "",
        "| model | processor time, s | most memory, MB |",
        "|---|---:|---:|",
        "| a.onnx | 2.00 | 110 |",
        "| run | 2.00 | 110 |",
    ]
