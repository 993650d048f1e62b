import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from facenet2expnet.crop import DETECTORS, CropContract, Framing, centre_crop, resize_square
from facenet2expnet.errors import UserError


def test_round_trip_through_json() -> None:
    contract = CropContract(
        detector="mtcnn", template="eyes", stored_px=96, crop_px=84, choice="central", aligned_px=256
    )
    assert CropContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract


FRAMING = Framing("mtcnn", (0.5, 0.45), 0.8, (0.02, 0.03), 0.05, 64, 0.1)


def test_framing_goes_through_json_and_is_left_out_if_there_is_none() -> None:
    contract = CropContract(framing=FRAMING)
    assert CropContract.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract
    assert "framing" not in CropContract().to_dict()
    assert CropContract.from_dict(CropContract().to_dict()).framing is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"detector": "already-cropped"}, "detector is 'already-cropped', expected one of viola-jones"),
        ({"size": 0.0}, "size is 0.0, expected 0.05 to 5"),
        ({"centre_xy": (0.5, math.nan)}, "centre_xy is .*, expected 2 finite numbers"),
    ],
)
def test_a_wrong_framing_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Framing(**{"detector": "mtcnn", "centre_xy": (0.5, 0.5), "size": 0.7} | values)


def test_photographs_are_cut_as_the_training_pictures_were() -> None:
    cut_outs = CropContract(framing=FRAMING)
    assert cut_outs.for_photos() == CropContract(detector="mtcnn", framing=FRAMING)
    assert cut_outs.for_photos("viola-jones").framing == FRAMING
    assert CropContract().for_photos() == CropContract(detector="mtcnn")
    few = Framing("mtcnn", (0.5, 0.5), 0.8, not_found=0.7)
    assert CropContract(framing=few).for_photos().framing is None


def test_a_contract_with_a_detector_keeps_its_way_of_cutting() -> None:
    own = CropContract(detector="viola-jones", margin=0.5)
    assert own.for_photos() == own
    assert own.for_photos("mtcnn").framing == Framing("viola-jones", (0.5, 0.5), 1 / 1.5)


def test_contract_of_an_earlier_version_is_read() -> None:
    assert CropContract.from_dict({"stored_px": 72, "crop_px": 64, "colour": "rgb"}).stored_px == 72
    with pytest.raises(UserError, match="unknown key colour"):
        CropContract.from_dict({"colour": "lab"})


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(UserError) as caught:
        CropContract(detector="retina", template="nose", stored_px=64, crop_px=65, choice="best", scale=0, aligned_px=4)
    for word in (*DETECTORS, "'nose'", "crop_px is 65", "'best'", "scale is 0", "aligned_px is 4"):
        assert word in str(caught.value)


def test_a_side_that_takes_all_memory_is_refused() -> None:
    with pytest.raises(UserError, match="stored_px is 1000000000, expected at most 4096; aligned_px is 4097, "):
        CropContract(stored_px=10**9, aligned_px=4097)
    assert CropContract(stored_px=4096, aligned_px=4096).stored_px == 4096


@pytest.mark.parametrize("numbers", [{"scale": math.inf}, {"scale": math.nan}, {"mean": (1.0, math.nan, 1.0)}])
def test_numbers_that_are_not_finite_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"expected (a|3) finite number"):
        CropContract(**numbers)


def test_template_needs_a_detector() -> None:
    with pytest.raises(UserError, match="needs landmarks, and detector 'already-cropped' finds none"):
        CropContract(template="eyes-mouth")


def test_resize_square_takes_the_centre_and_averages_areas() -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 100
    assert (resize_square(wide, 4) == 100).all()
    board = np.zeros((4, 4, 3), np.uint8)
    board[::2, ::2] = 200
    assert (resize_square(board, 2) == 50).all()
    assert resize_square(board, 16).shape == (16, 16, 3)


@pytest.mark.parametrize(("crop_px", "first"), [(4, 1), (3, 1), (6, 0)])
def test_centre_crop(crop_px: int, first: int) -> None:
    faces = torch.arange(2 * 3 * 36, dtype=torch.uint8).reshape(2, 3, 6, 6)
    window = slice(first, first + crop_px)
    found = centre_crop(faces, crop_px)
    assert found.dtype == torch.float32
    assert torch.equal(found, faces[:, :, window, window].float())


@pytest.mark.parametrize("values", [{"mean": None}, {"mean": ["a", 1, 2]}, {"stored_px": "x"}, {"scale": []}, "text"])
def test_values_of_another_kind_are_refused(values: Any) -> None:
    with pytest.raises(UserError, match="crop contract: a value has the wrong type"):
        CropContract.from_dict(values)
