from __future__ import annotations

from pathlib import Path

import pytest

import tiny


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of small pictures, which no test changes."""
    return tiny.write_faces(tmp_path_factory.mktemp("run") / "faces mit Ümläuten")
