"""Entropies, Table I, the layer to transfer, and mean faces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_nets import CROP_PX, TinyFaceNet, expression_net, face_classifier

from facenet2expnet.analysis.layers import layer_features
from facenet2expnet.analysis.neurons import (
    default_layers,
    mean_faces,
    neurons,
    recommend,
    table_one,
    unit_table,
)
from facenet2expnet.analysis.top_activations import label_entropy
from facenet2expnet.errors import UserError


@given(arrays(np.int64, (5, 8), elements=st.integers(0, 100)).filter(lambda counts: counts.sum(axis=1).all()))
def test_entropy_is_scipys(counts):
    shares = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(label_entropy(shares), scipy.stats.entropy(counts, axis=1), atol=1e-12)


def units(network: str, **layers: list[float]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"layer": name, "unit": range(len(values)), "entropy": values}) for name, values in layers.items()
    ]
    table = pd.concat(parts, ignore_index=True).assign(network=network, constant=False)
    return table.assign(maps=table["layer"] == "pool5", shape="2x1x2")


def test_table_one_counts_before_and_the_signed_change():
    before = units("before", pool5=[1.0, 1.0, 0.3, 1.0], fc6=[1.0, 0.6])
    after = units("after", pool5=[0.3, 0.2, 0.9, 1.0], fc6=[1.0, 0.6])
    table, threshold = table_one(pd.concat([before, after]))
    assert threshold == pytest.approx(0.6), "the lowest mean entropy of a layer, over both networks"
    assert table["layer"].tolist() == ["pool5", "fc6"]
    assert table["les"].tolist() == [1, 0], "an entropy at the threshold is not below it"
    assert table["les_change"].tolist() == [1, 0]
    assert table["les_share_after"].tolist() == [0.5, 0]
    table, threshold = table_one(before)
    assert (threshold, "les_change" in table) == (pytest.approx(0.8), False)


PAPER = {
    "CK+": [(100_352, 7763, -57), (25_088, 2011, 511), (4096, 338, 658), (4096, 248, 610)],
    "Oulu-CASIA": [(100_352, 3009, 194), (25_088, 605, 895), (4096, 48, 952), (4096, 33, 1086)],
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_own_table_recommends_pool5(name):
    total, before, change = map(np.array, zip(*PAPER[name], strict=True))
    table = pd.DataFrame({"layer": ["pool4", "pool5", "fc6", "fc7"], "maps": [True, True, False, False]})
    assert recommend(table.assign(units=total, les=before, les_change=change))[0] == "pool5"


def test_without_growth_no_layer_is_recommended():
    table = pd.DataFrame({"layer": ["a"], "maps": [True], "units": [9], "les": [3], "les_change": [0]})
    assert recommend(table) == (
        "", "No layer to transfer: fine-tuning made low-entropy neurons in no layer with maps.",
    )  # fmt: skip


def test_a_unit_that_responds_to_one_class_has_entropy_zero(student):
    found = unit_table("expression net", student, ["scores", "conv5"], 12)
    scores = found[found["layer"] == "scores"]
    np.testing.assert_allclose(scores["entropy"], 0, atol=1e-12)
    assert scores["class"].tolist() == list(student.classes)
    assert scores[["channel", "row", "column"]].to_numpy().tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]


def test_fine_tuning_makes_low_entropy_neurons_and_the_summary_has_the_command(teacher, tmp_path):
    both = replace(teacher, nets={"before": face_classifier().face_net, "after": teacher.net})
    result = neurons(both, top=12)
    assert result.table["layer"].tolist() == ["early", "late", "pooled"]
    assert result.table["units"].tolist() == [6 * 144, 8 * 36, 8]
    assert (result.table["mean_entropy_after"] < result.table["mean_entropy"]).iloc[-1]
    maps = result.table[result.table["maps"]]
    best = maps.iloc[maps["les_change"].argmax()]["layer"]
    assert f"Layer to transfer: {best}." in result.summary
    assert result.summary.endswith(f"To train with it: --set face_net.tap={best}")
    assert result.data.groupby(["layer", "network"])["neurons"].sum().tolist() == [864, 864, 288, 288, 8, 8]
    names = {path.name for path in result.save(tmp_path)}
    assert names >= {"neurons.svg", "neurons.png", "neurons.csv", "neurons-table.csv", "neurons-units.csv"}
    assert (tmp_path / "neurons.txt").read_text() == f"{result.title}\n{result.summary}\n"
    listed = pd.read_csv(tmp_path / "neurons-units.csv")
    assert len(listed) == 2 * (864 + 288 + 8)
    last = listed[(listed["layer"] == "early") & (listed["unit"] == 143 + 144)].iloc[0]
    assert (last["channel"], last["row"], last["column"]) == (1, 11, 11)


def test_one_network_alone_has_no_recommendation(teacher):
    result = neurons(replace(teacher, nets={"net": TinyFaceNet()}), ["late"], 12)
    assert set(result.data["network"]) == {"net"}
    assert "give the network before fine-tuning and the one after it" in result.summary


def test_bad_input(inputs):
    with pytest.raises(UserError, match="top is 72 and there are 72 images"):
        neurons(inputs, ["scores"], 72)
    nets = dict.fromkeys("abc", TinyFaceNet())
    with pytest.raises(UserError, match="expected one network, or two: before and after fine-tuning, got 3"):
        neurons(replace(inputs, nets=nets))


def test_default_layers_end_at_the_top_hidden_one():
    assert default_layers(face_classifier()) == ["early", "late", "pooled"]
    assert default_layers(expression_net()) == ["conv5", "pool5", "bridge", "fc6"]


def test_the_face_is_the_mean_of_the_images_with_the_highest_response(student):
    result = mean_faces(student, layer="scores", per_class=1, top=9)
    scores = layer_features(student.net, student.pixels, "scores", CROP_PX)
    best = np.argsort(-scores[:, 2], kind="stable")[:9]
    listed = result.more_tables["pictures"]
    assert listed[listed["unit"] == 2]["picture"].tolist() == best.tolist()
    axes = result.figure.axes[2]
    image = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(255 * image, student.pixels[best].mean(axis=0), atol=0.51)
    assert (axes.get_title(loc="center"), axes.get_xlabel()) == ("below  100%", "neuron 2")
    assert result.table.iloc[2].tolist() == ["scores", 2, "below", 1.0, 0.0, 9]


def test_each_class_gets_its_most_specific_neurons_of_the_top_hidden_layer(student, teacher):
    result = mean_faces(student, per_class=1, top=9)
    assert set(result.table["layer"]) == {"fc6"}
    assert result.table["class"].is_unique
    assert result.table["share"].min() > 0.5
    assert set(mean_faces(teacher, top=9).table["layer"]) == {"pooled"}


def test_neurons_that_never_change_are_left_out(student):
    model = expression_net()
    bias = model.net.head.get_submodule("fc6").bias
    with torch.no_grad():
        bias[1:] = -1e6  # type: ignore[index]
    assert set(mean_faces(replace(student, nets={"net": model})).table["unit"]) == {0}
    with torch.no_grad():
        bias[0] = -1e6  # type: ignore[index]
    with pytest.raises(UserError, match="each of its 16 neurons gives every image the same response"):
        mean_faces(replace(student, nets={"net": model}))
