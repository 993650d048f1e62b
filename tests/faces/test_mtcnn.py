import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from facenet2expnet.errors import UserError
from facenet2expnet.faces import mtcnn
from facenet2expnet.faces.landmarks import package_file

installed = pytest.mark.skipif(
    importlib.util.find_spec("mtcnn") is None or importlib.util.find_spec("lz4") is None,
    reason="the package mtcnn is not installed",
)


def test_the_nets_have_the_published_sizes() -> None:
    sizes = [
        sum(p.numel() for p in net.parameters())
        for net in (mtcnn.proposal_net(), mtcnn.refinement_net(), mtcnn.output_net())
    ]
    assert sizes == [6632, 100178, 389040]


@torch.inference_mode()
def test_the_nets_outputs_have_their_shapes() -> None:
    offsets, face = mtcnn.proposal_net()(torch.zeros(2, 3, 12, 14))
    assert (offsets.shape, face.shape) == ((2, 4, 1, 2), (2, 1, 2))
    offsets, face = mtcnn.refinement_net()(torch.zeros(2, 3, 24, 24))
    assert (offsets.shape, face.shape) == ((2, 4), (2,))
    offsets, points, face = mtcnn.output_net()(torch.zeros(2, 3, 48, 48))
    assert (offsets.shape, points.shape, face.shape) == ((2, 4), (2, 10), (2,))


@installed
def test_the_weights_are_read_as_joblib_reads_them() -> None:
    """joblib unpickles; our reader must find the same numbers without."""
    joblib = pytest.importorskip("joblib")
    for name, net in (("pnet", mtcnn.proposal_net()), ("onet", mtcnn.output_net())):
        path = package_file("mtcnn", f"assets/weights/{name}.lz4", "")
        ours = mtcnn.read_arrays(path, [p.numel() for p in net.parameters()])
        theirs = joblib.load(path)
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, np.ravel(b))


@installed
def test_neither_the_package_nor_tensorflow_is_imported() -> None:
    mtcnn.Mtcnn.from_package()
    assert not {"mtcnn", "tensorflow"} & set(sys.modules)


@installed
def test_a_weight_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    whole = package_file("mtcnn", "assets/weights/pnet.lz4", "").read_bytes()
    path = tmp_path / "pnet.lz4"
    for content in (whole[: len(whole) // 2], b"", b"no weights"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"pnet\.lz4"):
            mtcnn.load_weights(mtcnn.proposal_net(), path)


@installed
def test_another_net_s_file_is_refused() -> None:
    path = package_file("mtcnn", "assets/weights/rnet.lz4", "")
    with pytest.raises(UserError, match=r"rnet\.lz4"):
        mtcnn.load_weights(mtcnn.output_net(), path)


def test_overlapping_boxes_are_suppressed_best_first() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [2, 2, 6, 6.0]])
    scores = np.array([0.7, 0.9, 0.8, 0.6])
    assert mtcnn._suppressed(boxes, scores, 0.5).tolist() == [1, 2, 3]
    # The small box lies wholly within the first: to the smaller of both, it is overlapped by all of itself.
    assert mtcnn._suppressed(boxes, scores, 0.5, of_smaller=True).tolist() == [1, 2]


def test_a_patch_beyond_the_edge_is_grey_there() -> None:
    patch = mtcnn._patches(np.full((10, 10, 3), 255, np.uint8), np.array([[-10.0, 0, 10, 20]]), 24)
    assert patch[0, :, :12, 12:].min() > 0.99
    assert patch[0, :, :, :12].abs().max() < 0.01
    assert patch[0, :, 12:].abs().max() < 0.01
