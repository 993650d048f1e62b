"""Where a network looks: at the patch that tells the classes apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_nets import CLASSES, CROP_PX, TinyFaceNet, expression_net

from facenet2expnet.analysis import saliency as module
from facenet2expnet.analysis.layers import crops_of
from facenet2expnet.analysis.saliency import default_layer, grad_cam, integrated_gradients, saliency
from facenet2expnet.errors import UserError

pytest.importorskip("captum")


def patch_of(label: int) -> tuple[slice, slice]:
    """Where a class's patch is in the centre crop."""
    top, left = ((10, 3), (10, 20), (22, 12))[label]
    return slice(top, top + 8), slice(left, left + 8)


def test_integrated_gradients_add_up_to_the_difference_of_the_scores(faces, trained_expression_net):
    crops = crops_of(faces.pixels[:6], CROP_PX)
    baseline = torch.full((1, 3, CROP_PX, CROP_PX), 127.5)
    _, gap = integrated_gradients(
        trained_expression_net, crops, torch.tensor([0, 1, 2] * 2), baseline, steps=64
    )
    assert float(gap.max()) < 0.05


def test_integrated_gradients_find_the_patches(faces, trained_expression_net):
    finding = saliency(
        trained_expression_net,
        faces.pixels,
        faces.labels,
        CLASSES,
        crop_px=CROP_PX,
        layer="conv3",
        per_class=6,
    )
    data = finding.data[finding.data["method"] == "integrated gradients"]
    scale = CROP_PX / 28
    # Against the mean face each class differs in its own patch and, by their lack, in those of the others.
    in_a_patch = np.zeros(len(data), bool)
    row, column = data["row"].to_numpy() * scale, data["column"].to_numpy() * scale
    for label in range(3):
        rows, columns = patch_of(label)
        in_a_patch |= (
            (rows.start - 1 <= row)
            & (row < rows.stop)
            & (columns.start - 1 <= column)
            & (column < columns.stop)
        )
    share = data["share"].to_numpy()
    assert share[in_a_patch].sum() / share.sum() > 2 * in_a_patch.mean()


@pytest.mark.parametrize(
    ("name", "layer"), [("trained_expression_net", "bridge"), ("trained_face_net", "late")]
)
def test_grad_cam_is_what_its_definition_says(name, layer, faces, request):
    model = request.getfixturevalue(name)
    crops, target = crops_of(faces.pixels[:2], CROP_PX), torch.tensor([0, 1])
    found = grad_cam(model, crops, target, layer)
    from facenet2expnet.analysis.layers import probed

    twin, hooked = probed(model, layer)
    kept: list[torch.Tensor] = []
    handle = hooked.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    scores = twin(crops)
    handle.remove()
    (gradients,) = torch.autograd.grad(scores[torch.arange(2), target].sum(), kept[0])
    maps = (gradients.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1, keepdim=True).relu()
    expected = torch.nn.functional.interpolate(maps, (CROP_PX, CROP_PX), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected[:, 0].detach(), rtol=1e-4, atol=1e-5)


def test_a_finding_has_thirds_maps_and_single_pictures(faces, trained_face_net, tmp_path):
    finding = saliency(
        trained_face_net, faces.pixels, faces.labels, CLASSES, crop_px=CROP_PX, per_class=3, shown=2, steps=4
    )
    thirds = finding.table[["upper_third", "middle_third", "lower_third"]].sum(axis=1)
    np.testing.assert_allclose(thirds, 1, atol=1e-6)
    assert finding.table["pictures"].tolist() == [3] * 6
    np.testing.assert_allclose(finding.data.groupby(["method", "class"])["share"].sum(), 1, atol=1e-6)
    assert len(finding.more_figures["pictures"].axes) == 18
    assert {"saliency-pictures.png"} <= {path.name for path in finding.save(tmp_path)}


def test_the_default_layer_is_the_deepest_with_maps_large_enough(trained_face_net):
    assert default_layer(trained_face_net, CROP_PX) == "late"
    assert default_layer(expression_net(), CROP_PX) == "bridge"


def test_bad_input(faces, trained_face_net, monkeypatch):
    given = (faces.pixels, faces.labels, CLASSES)
    with pytest.raises(UserError, match="layer 'pooled' of tiny, fine-tuned is not spatial"):
        saliency(trained_face_net, *given, crop_px=CROP_PX, layer="pooled")
    with pytest.raises(UserError, match="class 'none' has no picture"):
        saliency(trained_face_net, faces.pixels, faces.labels, (*CLASSES, "none"), crop_px=CROP_PX)
    with pytest.raises(UserError, match="tiny has no class scores, expected 3"):
        saliency(TinyFaceNet(), *given, crop_px=CROP_PX)
    broken = expression_net()
    with torch.no_grad():
        broken.net.head.get_submodule("scores").weight.fill_(torch.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="gives NaN or infinity"):
        saliency(broken, *given, crop_px=CROP_PX, steps=2)
    monkeypatch.setitem(__import__("sys").modules, "captum", None)
    monkeypatch.setitem(__import__("sys").modules, "captum.attr", None)
    with pytest.raises(UserError, match=r"needs the package captum, which is not here; pip install"):
        module.saliency(trained_face_net, *given, crop_px=CROP_PX)
