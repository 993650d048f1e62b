"""The rehearsal of benchmarks/jobs.py, with one process: side by side is tested in test_execute.py."""

from __future__ import annotations

from pathlib import Path

import pytest

import jobs as script
import tiny

pytestmark = pytest.mark.usefixtures("tiny_face_net")


def test_every_number_of_jobs_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def one_by_one(*given: object, **more: object) -> Path:
        asked.append({name: more.pop(name) for name in ("jobs", "gpus", "jobs_per_gpu") if name in more})
        return compare(*given, **more)  # type: ignore[arg-type]

    compare = script.compare
    monkeypatch.setattr(script, "compare", one_by_one)
    faces = tiny.write_faces(tmp_path / "faces", each=2)
    given = {"folds": 2, "device": "cpu", "methods": ["scratch"]}
    rows = list(script.measure(faces, tiny.tiny_recipe(), [1, 2], tmp_path / "runs", cores=1, **given))
    assert asked == [{"jobs": 1}, {"jobs": 2}]
    assert [(row["jobs"], row["threads"], row["same_metrics"]) for row in rows] == [(1, 1, True), (2, 1, True)]
    assert (rows[0]["speed_up"], rows[0]["efficiency"]) == (1, 1)
    assert rows[1]["efficiency"] == pytest.approx(rows[0]["seconds"] / rows[1]["seconds"] / 2)
    asked.clear()
    assert (
        len(list(script.measure(faces, tiny.tiny_recipe(), [1, 4], tmp_path / "gpu", cores=1, gpu="0", **given))) == 2
    )
    assert asked == [{"gpus": ("0",), "jobs_per_gpu": 1}, {"gpus": ("0",), "jobs_per_gpu": 4}]
