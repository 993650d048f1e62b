"""Entropies, LES counts, Table I and the recommendation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_nets import CLASSES, CROP_PX, TinyFaceNet, face_classifier

from facenet2expnet.analysis.neurons import (
    LayerNeurons,
    default_top,
    label_entropy,
    layer_neurons,
    les_counts,
    les_threshold,
    neurons,
    recommend,
    table_one,
)
from facenet2expnet.errors import UserError


@given(arrays(np.int64, (5, 8), elements=st.integers(0, 100)).filter(lambda counts: counts.sum(axis=1).all()))
def test_entropy_is_scipys(counts):
    shares = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(label_entropy(shares), scipy.stats.entropy(counts, axis=1), atol=1e-12)


def test_entropy_of_one_class_is_zero_and_of_all_alike_the_logarithm():
    assert label_entropy(np.array([0.0, 1.0, 0.0])) == 0
    np.testing.assert_allclose(label_entropy(np.full(7, 1 / 7)), np.log(7))


def test_the_threshold_is_the_lowest_mean_of_a_layer():
    entropies = {"pool4": np.array([1.0, 2.0]), "pool5": np.array([0.5, 0.9, 1.0])}
    assert les_threshold(entropies) == pytest.approx(0.8)
    assert les_counts(entropies, 0.9) == {"pool4": 0, "pool5": 1}, (
        "an entropy at the threshold is not below it"
    )


def test_a_threshold_needs_finite_entropies():
    with pytest.raises(UserError, match="layer 'pool5'"):
        les_threshold({"pool5": np.array([0.1, np.nan])})
    with pytest.raises(UserError, match="layer 'pool5'"):
        les_threshold({"pool5": np.array([])})
    with pytest.raises(UserError, match="one layer at least"):
        les_threshold({})


def units(entropies: list[float], shape: tuple[int, ...]) -> LayerNeurons:
    values = np.array(entropies)
    return LayerNeurons(shape, np.full((len(values), 2), 0.5), values, np.zeros(len(values), bool))


def test_table_one_counts_before_and_the_signed_change():
    before = {"maps": units([1.0, 1.0, 0.3, 1.0], (1, 2, 2)), "vector": units([1.0, 0.2], (2,))}
    after = {"maps": units([0.3, 1.0, 1.0, 1.0], (1, 2, 2)), "vector": units([0.1, 0.1], (2,))}
    table, thresholds = table_one(before, after)
    assert thresholds == {"before": pytest.approx(0.1), "after": pytest.approx(0.1)}
    assert table["les"].tolist() == [0, 0]
    table, thresholds = table_one(before, after, "before")
    assert thresholds["after"] == pytest.approx(0.6)
    assert table["les"].tolist() == [1, 1]
    assert table["les_change"].tolist() == [0, 1]
    table, thresholds = table_one(before, after, "each")
    assert (thresholds["before"], thresholds["after"]) == (pytest.approx(0.6), pytest.approx(0.1))
    assert table["les_change"].tolist() == [-1, -1]


def test_table_one_wants_the_same_layers():
    with pytest.raises(UserError, match="same layers of both networks"):
        table_one({"a": units([1.0], (1,))}, {"b": units([1.0], (1,))})


PAPER = {
    "CK+": [(100_352, 7763, -57), (25_088, 2011, 511), (4096, 338, 658), (4096, 248, 610)],
    "Oulu-CASIA": [(100_352, 3009, 194), (25_088, 605, 895), (4096, 48, 952), (4096, 33, 1086)],
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_own_table_recommends_pool5(name):
    total, before, change = map(np.array, zip(*PAPER[name], strict=True))
    table = pd.DataFrame({"layer": ["pool4", "pool5", "fc6", "fc7"], "maps": [True, True, False, False]})
    table = table.assign(units=total, les=before, les_change=change, les_share=before / total)
    assert recommend(table)[0] == "pool5"
    fine_tuned = table.drop(columns="les_change").assign(
        les=before + change, les_share=(before + change) / total
    )
    assert recommend(fine_tuned)[0] == "pool5"


def test_where_nothing_grows_nothing_is_recommended():
    table = pd.DataFrame({"layer": ["a"], "maps": [True], "units": [9], "les": [3], "les_change": [0]})
    layer, reason = recommend(table)
    assert layer == ""
    assert "in no layer with maps" in reason
    assert "so none can be recommended" in recommend(table.assign(maps=False))[1]


def test_a_unit_that_sees_one_class_alone_has_entropy_zero(faces, trained_expression_net):
    found = layer_neurons(
        trained_expression_net, faces.pixels, faces.labels, CLASSES, ["scores"], CROP_PX, 12
    )["scores"]
    assert found.shape == (3,)
    np.testing.assert_allclose(found.entropies, 0, atol=1e-12)
    np.testing.assert_allclose(found.histograms, np.eye(3), atol=1e-12)


def test_fine_tuning_makes_low_entropy_neurons_and_the_finding_says_so(faces, trained_face_net, tmp_path):
    layers = ["early", "late", "pooled"]
    finding = neurons(
        face_classifier().face_net, trained_face_net, faces.pixels, faces.labels, CLASSES, crop_px=CROP_PX,
        layers=layers, top=12,
    )  # fmt: skip
    assert finding.table["layer"].tolist() == layers
    assert finding.table["units"].tolist() == [6 * 144, 8 * 36, 8]
    assert (finding.table["mean_entropy_after"] < finding.table["mean_entropy"]).iloc[-1]
    maps = finding.table[finding.table["maps"]]
    assert f"Layer to transfer: {maps.iloc[maps['les_change'].argmax()]['layer']}" in finding.says
    assert finding.data.groupby(["layer", "network"])["neurons"].sum().tolist() == [864, 864, 288, 288, 8, 8]
    names = {path.name for path in finding.save(tmp_path)}
    assert names >= {"neurons.svg", "neurons.png", "neurons.csv", "neurons-table.csv", "neurons-units.csv"}
    listed = pd.read_csv(tmp_path / "neurons-units.csv")
    assert len(listed) == 2 * (864 + 288 + 8)
    last = listed[(listed["layer"] == "early") & (listed["unit"] == 143 + 144)].iloc[0]
    assert (last["channel"], last["row"], last["column"]) == (1, 11, 11)


def test_one_network_alone(faces):
    finding = neurons(
        TinyFaceNet(), None, faces.pixels, faces.labels, CLASSES, crop_px=CROP_PX, layers=["late"], top=12
    )
    assert "les_change" not in finding.table
    assert set(finding.data["network"]) == {"pre-trained"}


def test_a_top_that_takes_in_everything_is_refused(faces):
    with pytest.raises(UserError, match="top is 72 and there are 72 pictures"):
        neurons(
            TinyFaceNet(), None, faces.pixels, faces.labels, CLASSES, crop_px=CROP_PX, layers=["late"], top=72
        )


def test_default_top_is_the_papers_share():
    assert [default_top(n) for n in (1308, 4178, 654, 20)] == [100, 100, 50, 5]
