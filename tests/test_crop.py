import pytest

from facenet2expnet.crop import DETECTORS, PAPER, CropContract
from facenet2expnet.errors import UserError


def test_round_trip_through_a_plain_dictionary() -> None:
    contract = CropContract(detector="mtcnn", template="eyes", stored_px=96, crop_px=84, choice="central")
    values = contract.to_dict()
    values["mean"] = list(values["mean"])  # as JSON gives it back
    assert CropContract.from_dict(values) == contract


def test_the_paper_s_contract() -> None:
    assert (PAPER.detector, PAPER.template, PAPER.stored_px, PAPER.crop_px) == (
        "viola-jones",
        "eyes-mouth",
        256,
        224,
    )


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        CropContract(detector="retina", template="nose", stored_px=64, crop_px=65, choice="best", scale=0)
    for word in (*DETECTORS, "'nose'", "crop_px is 65", "'best'", "scale is 0"):
        assert word in str(caught.value)


def test_a_template_without_a_detector_is_refused() -> None:
    with pytest.raises(UserError, match="needs landmarks, which 'already-cropped' does not look for"):
        CropContract(template="eyes-mouth")


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(UserError, match="unknown key colour_space"):
        CropContract.from_dict({"colour_space": "lab"})
