"""A run that was killed and resumed gives, bit for bit, the weights of a run that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tiny

VICTIM = Path(__file__).with_name("victim.py")


def run_victim(data: Path, out: Path, mode: str, where: str = "never", count: int = 1) -> int:
    command = [sys.executable, str(VICTIM), str(data), str(out), mode, where, str(count)]
    return subprocess.run(command, capture_output=True, timeout=300, check=False).returncode


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("resume")
    data = tiny.write_faces(folder / "faces", each=12)
    assert run_victim(data, folder / "whole", "new") == 0
    return data, load_file(folder / "whole" / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("loss:fine_tune", 6),
        ("views", 1),
        ("loss:stage1", 7),
        ("loss:stage2", 5),
        ("write", 3),
    ],
)
def test_a_killed_run_resumes_bit_for_bit(
    uninterrupted: tuple[Path, dict[str, object]], tmp_path: Path, where: str, count: int
) -> None:
    data, expected = uninterrupted
    out = tmp_path / "killed"
    assert run_victim(data, out, "new", where, count) == -signal.SIGKILL
    assert not (out / "report.html").exists()
    assert run_victim(data, out, "resume") == 0
    found = load_file(out / "model" / "model.safetensors")
    assert set(found) == set(expected)
    different = [name for name, value in found.items() if not value.equal(expected[name])]
    assert different == []
