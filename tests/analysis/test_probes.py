"""Probes: the folds are honest, and the scores what features made by hand must give."""

from __future__ import annotations

import numpy as np
import pytest

from facenet2expnet.analysis import probes
from facenet2expnet.analysis.probes import expression_probe, identity_probe, reduced, silhouette
from facenet2expnet.errors import UserError


def made(people: int = 8, sequences: int = 6, frames: int = 2):
    """Features whose first block names the person, second the expression, third the sequence (as neighbours do)."""
    generator = np.random.default_rng(0)
    person, sequence, _ = (axis.ravel() for axis in np.indices((people, sequences, frames)))
    expression = sequence % 3
    one_hot = [
        np.eye(people)[person],
        np.eye(3)[expression],
        np.eye(people * sequences)[person * sequences + sequence],
    ]
    noise = generator.standard_normal((len(person), 4)) * 0.05
    subjects = np.array([f"S{number}" for number in person], dtype=object)
    return one_hot, noise, expression, subjects, sequence.astype(str).astype(object)


def test_features_of_the_person_give_identity_and_no_expression():
    (person, _, _), noise, expression, subjects, sequences = made()
    features = np.hstack([person, noise])
    assert identity_probe(features, subjects, sequences).accuracy == 1
    assert expression_probe(features, expression, subjects).accuracy < 0.5


def test_features_of_the_expression_give_expression_and_no_identity():
    (_, feeling, _), noise, expression, subjects, sequences = made()
    features = np.hstack([feeling, noise])
    assert expression_probe(features, expression, subjects).accuracy == 1
    assert identity_probe(features, subjects, sequences).accuracy < 0.3


def test_what_only_names_a_sequence_helps_no_probe_that_holds_sequences_out():
    (_, _, sequence_code), noise, _, subjects, sequences = made()
    features = np.hstack([sequence_code, noise])
    held_out = identity_probe(features, subjects, sequences)
    leaking = identity_probe(features, subjects, None)
    assert held_out.accuracy < 0.3
    assert leaking.accuracy > 0.9, (
        "with single pictures held out the neighbouring frame gives the person away"
    )
    assert "hold out sequences of the same 8 subjects" in held_out.note
    assert "too high" in leaking.note


def test_no_subject_stands_on_two_sides_of_the_expression_probe(monkeypatch):
    _, noise, expression, subjects, _ = made()
    seen = []

    def spy(classifier, features, targets, cv, groups):
        seen.extend(cv.split(features, targets, groups))
        return targets

    monkeypatch.setattr(probes, "cross_val_predict", spy)
    expression_probe(noise, expression, subjects)
    assert len(seen) == 5
    assert all(not set(subjects[train]) & set(subjects[test]) for train, test in seen)


def test_every_held_out_person_was_seen_in_other_sequences(monkeypatch):
    _, noise, _, subjects, sequences = made()
    seen = []

    def spy(classifier, features, targets, cv, groups):
        seen.extend(
            (targets[train], targets[test], groups[train], groups[test])
            for train, test in cv.split(features, targets, groups)
        )
        return targets

    monkeypatch.setattr(probes, "cross_val_predict", spy)
    identity_probe(noise, subjects, sequences)
    for train, test, train_groups, test_groups in seen:
        assert set(test) <= set(train)
        assert not set(train_groups) & set(test_groups)


def test_what_can_not_be_probed_says_why():
    _, noise, expression, _, _ = made()
    assert "Subjects are unknown" in identity_probe(noise, None, None).note
    assert "subjects are unknown" in expression_probe(noise, expression, None).note
    lonely = np.array(["S1"] * len(noise), dtype=object)
    assert np.isnan(expression_probe(noise, expression, lonely).accuracy)
    assert np.isnan(identity_probe(noise, lonely, None).accuracy)
    single = np.array([str(number) for number in range(len(noise))], dtype=object)
    assert "Fewer than two subjects have two pictures" in identity_probe(noise, single, None).note


def test_silhouette_is_high_for_groups_apart_and_not_defined_for_one():
    (person, _, _), noise, _, subjects, _ = made()
    assert silhouette(np.hstack([10 * person, noise]), subjects) > 0.9
    assert np.isnan(silhouette(noise, np.array(["a"] * len(noise))))
    assert np.isnan(silhouette(noise, None))


def test_features_that_are_all_the_same_are_refused():
    with pytest.raises(UserError, match="the same for every picture"):
        reduced(np.ones((20, 5)))
