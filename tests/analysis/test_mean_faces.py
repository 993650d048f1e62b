"""Mean faces of chosen neurons and of the most specific ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_nets import CLASSES, CROP_PX, expression_net

from facenet2expnet.analysis.layers import all_responses
from facenet2expnet.analysis.mean_faces import default_averaged, mean_faces
from facenet2expnet.errors import UserError


def test_the_face_is_the_mean_of_the_pictures_that_excite_the_neuron(faces, trained_expression_net):
    finding = mean_faces(
        trained_expression_net,
        faces.pixels,
        faces.labels,
        CLASSES,
        crop_px=CROP_PX,
        layer="scores",
        units=[2],
        top=9,
    )
    best = np.argsort(
        -all_responses(trained_expression_net, faces.pixels, "scores", CROP_PX)[:, 2], kind="stable"
    )[:9]
    assert finding.more["pictures"]["picture"].tolist() == best.tolist()
    image = np.asarray(finding.figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(image, faces.pixels[best].mean(axis=0), atol=0.51)
    row = finding.table.iloc[0]
    assert (row["unit"], row["class"], row["share"], row["pictures"]) == (2, "below", 1.0, 9)
    assert finding.figure.axes[0].get_title(loc="center") == "below  100%"


def test_each_class_gets_its_most_specific_neurons_of_the_top_hidden_layer(faces, trained_expression_net):
    finding = mean_faces(
        trained_expression_net, faces.pixels, faces.labels, CLASSES, crop_px=CROP_PX, per_class=1, top=9
    )
    assert set(finding.table["layer"]) == {"fc6"}
    assert finding.table["class"].is_unique
    assert finding.table["share"].min() > 0.5


def test_faces_of_a_face_net_come_from_its_embedding(faces, trained_face_net):
    finding = mean_faces(trained_face_net, faces.pixels, faces.labels, CLASSES, crop_px=CROP_PX, top=9)
    assert set(finding.table["layer"]) == {"pooled"}


def test_neurons_that_never_change_are_passed_over_and_a_dead_layer_is_an_error(faces):
    model = expression_net()
    with torch.no_grad():
        model.net.head.get_submodule("fc6").bias.fill_(-1e6)  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="each of its 16 neurons gives every picture the same response"):
        mean_faces(model, faces.pixels, faces.labels, CLASSES, crop_px=CROP_PX)


def test_a_neuron_that_is_not_there_is_named(faces):
    with pytest.raises(UserError, match="layer 'fc6' has no neuron 16; its 16 neurons are numbered from 0"):
        mean_faces(expression_net(), faces.pixels, faces.labels, CLASSES, crop_px=CROP_PX, units=[3, 16])


def test_default_number_of_faces_is_a_share_of_the_set():
    assert [default_averaged(n) for n in (1308, 5000, 654, 10)] == [30, 30, 15, 5]
