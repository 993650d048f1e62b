"""Features side by side, and stage 1 made visible."""

from __future__ import annotations

import builtins

import numpy as np
import pytest
from matplotlib.figure import Figure
from small_nets import CLASSES, CROP_PX, TinyFaceNet

from facenet2expnet.analysis.compare_features import _scatter, features_compared, stage_one_made_visible
from facenet2expnet.errors import UserError


def test_training_for_the_expression_shows_in_the_scores(faces, trained_expression_net, tmp_path):
    nets = {"face net": TinyFaceNet(), "expression net": trained_expression_net}
    finding = features_compared(
        nets, faces.pixels, faces.labels, CLASSES, faces.subjects, faces.sequences, crop_px=CROP_PX
    )
    table = finding.table.set_index("network")
    assert table.loc["expression net", "expression_probe"] > 0.95
    assert (
        table.loc["expression net", "expression_silhouette"] > table.loc["face net", "expression_silhouette"]
    )
    assert table["identity_chance"].tolist() == [0.25, 0.25]
    assert set(finding.data.columns) == {"network", "x", "y", "expression", "subject"}
    assert len(finding.data) == 144
    assert len(finding.figure.axes) == 4
    assert {"features.csv", "features.png"} <= {path.name for path in finding.save(tmp_path)}


def test_groups_are_told_apart_without_colour():
    figure = Figure()
    axes = figure.add_subplot()
    names = np.array([str(number) for number in range(10)])
    _scatter(axes, np.zeros((10, 2)), names, list(names))
    looks = {
        (drawn.get_paths()[0].vertices.tobytes(), len(drawn.get_facecolors())) for drawn in axes.collections
    }
    assert len(looks) == 10


def test_without_subjects_there_is_no_identity_row(faces, trained_expression_net):
    finding = features_compared(
        {"net": trained_expression_net}, faces.pixels, faces.labels, CLASSES, crop_px=CROP_PX
    )
    assert np.isnan(finding.table["identity_probe"][0])
    assert "Subjects are unknown" in finding.says
    assert len(finding.figure.axes) == 1


def test_the_projection_is_the_same_each_time(faces, trained_expression_net):
    first, second = (
        features_compared(
            {"net": trained_expression_net}, faces.pixels, faces.labels, CLASSES, crop_px=CROP_PX
        ).data
        for _ in range(2)
    )
    np.testing.assert_array_equal(first["x"], second["x"])


def test_umap_missing_is_one_sentence(faces, trained_expression_net, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "umap":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"needs the package umap-learn, which is not here; pip install"):
        features_compared(
            {"net": trained_expression_net},
            faces.pixels,
            faces.labels,
            CLASSES,
            crop_px=CROP_PX,
            projection="umap",
        )


def test_too_few_pictures(faces, trained_expression_net):
    with pytest.raises(UserError, match="10 pictures or more to compare features on, got 6"):
        features_compared(
            {"net": trained_expression_net}, faces.pixels[:6], faces.labels[:6], CLASSES, crop_px=CROP_PX
        )


def test_stage_one_is_summed_up(faces, trained_expression_net, trained_face_net):
    finding = stage_one_made_visible(
        trained_expression_net, trained_face_net, faces.pixels, crop_px=CROP_PX, teacher_layer="late"
    )
    row = finding.table.iloc[0]
    assert row["channels"] == 8
    assert 0 <= row["r2"] <= 1
    assert len(finding.data) == 13 * 4
    assert set(finding.more["channels"].columns) == {"channel", "r2", "r2_as_is", "variance_share"}
