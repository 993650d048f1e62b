"""A run that was killed and resumed gives, bit for bit, the weights of a run that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tiny

VICTIM = Path(__file__).with_name("victim.py")


JOINT = ("face_net.tap=late + early", "stage1.objective=phi-s + 0.1 * rkd", "stage2.regress=0.5")


def run_victim(
    data: Path, out: Path, mode: str, where: str = "never", count: int = 1, settings: Sequence[str] = ()
) -> int:
    command = [sys.executable, str(VICTIM), str(data), str(out), mode, where, str(count), *settings]
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
    check_killed(data, expected, tmp_path / "killed", where, count)


@pytest.mark.parametrize("cached", [False, True])
def test_so_does_one_with_several_layers_and_the_objective_in_stage_2(
    uninterrupted: tuple[Path, dict[str, object]], tmp_path: Path, cached: bool
) -> None:
    data, _ = uninterrupted
    settings = (*JOINT, f"stage2.standardised_input={str(cached).lower()}", f"stage1.views={int(cached)}")
    assert run_victim(data, tmp_path / "whole", "new", settings=settings) == 0
    expected = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    check_killed(data, expected, tmp_path / "killed", "loss:stage2", 5, settings)


def check_killed(
    data: Path, expected: dict[str, object], out: Path, where: str, count: int, settings: Sequence[str] = ()
) -> None:
    assert run_victim(data, out, "new", where, count, settings) == -signal.SIGKILL
    assert not (out / "report.html").exists()
    assert run_victim(data, out, "resume", settings=settings) == 0
    found = load_file(out / "model" / "model.safetensors")
    assert set(found) == set(expected)
    different = [name for name, value in found.items() if not value.equal(expected[name])]
    assert different == []
