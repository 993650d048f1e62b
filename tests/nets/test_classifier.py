"""From crop to class scores: pixel scale, the taps of a face net, the head on its embedding, temperature."""

from __future__ import annotations

import pytest
import torch

from facenet2expnet.nets.classifier import LUMINANCE, ExpressionClassifier, FaceClassifier, divide_scores
from facenet2expnet.nets.expnet import ExpNet
from tiny import TinyFaceNet

CROPS = 255 * torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def expression_classifier() -> ExpressionClassifier:
    torch.manual_seed(0)
    net = ExpNet(3, input_px=32, bridge_chw=(16, 8, 8), width=0.1, hidden=8)
    return ExpressionClassifier(net, (100.0, 110.0, 120.0), 50.0).eval()


def test_pixels_are_normalised_once() -> None:
    model = expression_classifier()
    means = torch.tensor([100.0, 110.0, 120.0]).view(1, 3, 1, 1)
    assert torch.allclose(model(CROPS), model.net((CROPS - means) / 50), atol=1e-5)
    assert "mean" not in model.state_dict()  # it is the contract's


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("mean", "border"), [((127.5, 127.5, 127.5), 0), ((100.0, 110.0, 120.0), 1)])
def test_a_classifier_that_ignores_colour_answers_as_for_the_grey_picture(
    batch_norm: bool, mean: tuple[float, float, float], border: int
) -> None:
    torch.manual_seed(0)
    net = ExpNet(3, input_px=32, bridge_chw=(16, 8, 8), width=0.1, hidden=8, batch_norm=batch_norm)
    model = ExpressionClassifier(net, mean, 50.0).eval()
    if batch_norm:
        torch.nn.init.normal_(net.convolutions.bn1.running_mean)
    grey = (CROPS * torch.tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True).repeat(1, 3, 1, 1)
    first = torch.nn.Sequential(*list(net.convolutions)[: 2 if batch_norm else 1])
    inside = (..., slice(border, 32 - border), slice(border, 32 - border))
    before, coloured = first(model.normalise(grey)), first(model.normalise(CROPS))
    assert (before - coloured).abs().max() > 0.1
    for _ in range(2):  # the second time changes nothing
        model.ignore_colour()
        assert torch.allclose(first(model.normalise(grey))[inside], before[inside], atol=1e-4)
        assert torch.allclose(first(model.normalise(CROPS))[inside], before[inside], atol=1e-4)
    assert torch.allclose(model(CROPS), model(grey), atol=1e-4)


@pytest.mark.parametrize("head_norm", [False, True])
def test_a_face_classifier_reads_the_embedding_and_taps_in_one_pass(head_norm: bool) -> None:
    model = FaceClassifier(TinyFaceNet(), 3, head_norm=head_norm, head_dropout=0.5).eval()
    found = model.face_net(CROPS, ["early", "late", "pooled"])
    passes: list[object] = []
    model.face_net.register_forward_pre_hook(lambda *given: passes.append(given))
    scores, (late, pooled, again) = model.with_taps(CROPS, ["late", "pooled", "late"])
    assert len(passes) == 1
    assert torch.equal(late, found["late"])
    assert torch.equal(again, late)
    assert torch.equal(pooled, found["pooled"][:, :, None, None])
    embedding = found["pooled"] / (1 + 1e-5) ** 0.5 if head_norm else found["pooled"]
    torch.testing.assert_close(scores, model.head.scores(embedding))
    assert torch.equal(model(CROPS), scores)


def test_an_embedding_of_maps_is_averaged_over_positions() -> None:
    net = TinyFaceNet()
    pooled = FaceClassifier(net, 3, head_norm=False, head_dropout=0.0).eval()
    net.info = type(net.info)(**{**vars(net.info), "embedding": "late"})
    of_maps = FaceClassifier(net, 3, head_norm=False, head_dropout=0.0).eval()
    of_maps.head.load_state_dict(pooled.head.state_dict())
    torch.testing.assert_close(of_maps(CROPS), pooled(CROPS))


def test_every_parameter_of_both_classifiers_receives_a_gradient() -> None:
    for model in (
        expression_classifier(),
        FaceClassifier(TinyFaceNet(), 3, head_norm=True, head_dropout=0.0),
    ):
        model.train()
        torch.nn.functional.cross_entropy(model(CROPS), torch.tensor([0, 1, 2, 0])).backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == []


def test_a_temperature_divides_the_scores_within_the_last_layer() -> None:
    for model in (
        expression_classifier(),
        FaceClassifier(TinyFaceNet(), 3, head_norm=True, head_dropout=0.5).eval(),
    ):
        before = model(CROPS)
        divide_scores(model, 2.5)
        torch.testing.assert_close(model(CROPS), before / 2.5)
