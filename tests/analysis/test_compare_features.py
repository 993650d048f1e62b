"""Features side by side: honest folds, and the scores that features made by hand must give."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from small_nets import TinyFaceNet

from facenet2expnet.analysis import compare_features as module
from facenet2expnet.analysis.compare_features import (
    compare_features,
    expression_probe,
    identity_probe,
    main_axes,
    silhouette,
)
from facenet2expnet.errors import UserError


def made(people: int = 8, sequences: int = 6, frames: int = 2):
    """One-hot codes of subject, expression and sequence, noise, and the names of all three."""
    generator = np.random.default_rng(0)
    subject, sequence, _ = (axis.ravel() for axis in np.indices((people, sequences, frames)))
    expression = sequence % 3
    own = np.eye(people * sequences)[subject * sequences + sequence]
    noise = generator.standard_normal((len(subject), 4)) * 0.05
    names = np.array([f"S{number}" for number in subject], dtype=object)
    codes = np.eye(people)[subject], np.eye(3)[expression], own
    return codes, noise, expression, names, sequence.astype(str).astype(object)


def test_features_of_the_subject_give_identity_and_those_of_the_expression_give_expression():
    (subject, feeling, _), noise, expression, subjects, sequences = made()
    for code, known, unknown in ((subject, 0, 1), (feeling, 1, 0)):
        features = np.hstack([code, noise])
        probes = (
            identity_probe(features, subjects, sequences),
            expression_probe(features, expression, subjects),
        )
        assert probes[known].accuracy == 1
        assert probes[unknown].accuracy < 0.5


def test_a_code_of_the_sequence_does_not_help_a_probe_that_holds_sequences_out():
    (_, _, code), noise, _, subjects, sequences = made()
    features = np.hstack([code, noise])
    held_out, leaking = (
        identity_probe(features, subjects, sequences),
        identity_probe(features, subjects, None),
    )
    assert held_out.accuracy < 0.3
    assert leaking.accuracy > 0.9, "with single images held out the neighbouring frame has the same code"
    assert "hold out sequences of the same 8 subjects" in held_out.summary
    assert "too high" in leaking.summary


def test_folds_hold_out_subjects_for_the_expression_and_sequences_for_the_identity(monkeypatch):
    _, noise, expression, subjects, sequences = made()
    folds = []

    def spy(classifier, features, targets, cv, groups):
        folds.extend((targets, groups, *fold) for fold in cv.split(features, targets, groups))
        return targets

    monkeypatch.setattr(module, "cross_val_predict", spy)
    expression_probe(noise, expression, subjects)
    assert len(folds) == 5
    for _, groups, train, test in folds:
        assert not set(groups[train]) & set(groups[test])
    folds.clear()
    identity_probe(noise, subjects, sequences)
    for targets, groups, train, test in folds:
        assert set(targets[test]) <= set(targets[train])
        assert not set(groups[train]) & set(groups[test])


def test_a_probe_that_is_not_possible_says_why():
    _, noise, expression, _, _ = made()
    assert "subjects are unknown" in identity_probe(noise, None, None).summary
    assert "subjects are unknown" in expression_probe(noise, expression, None).summary
    one = np.array(["S1"] * len(noise), dtype=object)
    assert np.isnan(expression_probe(noise, expression, one).accuracy)
    assert np.isnan(identity_probe(noise, one, None).accuracy)
    single = np.array([str(number) for number in range(len(noise))], dtype=object)
    assert "fewer than two subjects have two images" in identity_probe(noise, single, None).summary


def test_silhouette_is_high_for_groups_apart_and_not_defined_for_one():
    (subject, _, _), noise, _, subjects, _ = made()
    assert silhouette(np.hstack([10 * subject, noise]), subjects) > 0.9
    assert np.isnan(silhouette(noise, np.array(["a"] * len(noise))))
    assert np.isnan(silhouette(noise, None))


def test_features_that_are_all_the_same_are_refused():
    with pytest.raises(UserError, match="the same for every image"):
        main_axes(np.ones((20, 5)))


def test_training_for_the_expression_shows_in_the_scores(student, tmp_path):
    both = replace(student, nets={"face net": TinyFaceNet(), **student.nets})
    result = compare_features(both)
    table = result.table.set_index("network")
    assert table.loc["expression net", "expression_probe"] > 0.95
    assert table.loc["expression net", "expression_silhouette"] > table.loc["face net", "expression_silhouette"]
    assert table["identity_chance"].tolist() == [0.25, 0.25]
    assert set(result.data.columns) == {"network", "x", "y", "expression", "subject"}
    assert (len(result.data), len(result.figure.axes)) == (144, 4)
    assert {"features.csv", "features.png"} <= {path.name for path in result.save(tmp_path)}


@pytest.mark.parametrize("subjects", [None, np.array([""] + ["S1"] * 71, dtype=object)])
def test_without_all_subjects_there_is_no_identity_row_and_the_result_is_the_same_each_time(student, subjects):
    first, second = (compare_features(replace(student, subjects=subjects)) for _ in range(2))
    assert np.isnan(first.table["identity_probe"][0])
    assert "subjects are unknown" in first.summary
    assert len(first.figure.axes) == 1
    pd.testing.assert_frame_equal(first.data, second.data)


def test_groups_differ_without_colour():
    axes = Figure().add_subplot()
    names = [str(number) for number in range(10)]
    module._scatter(axes, pd.DataFrame({"x": 0.0, "y": 0.0, "subject": names}), "subject", names)
    looks = {(drawn.get_paths()[0].vertices.tobytes(), len(drawn.get_facecolors())) for drawn in axes.collections}
    assert len(looks) == 10
