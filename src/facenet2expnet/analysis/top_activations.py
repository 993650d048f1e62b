"""The K pictures with the highest response of every unit, kept while the pictures go by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from facenet2expnet.analysis.layers import check_labels, responses
from facenet2expnet.errors import UserError

UNITS_AT_A_TIME = 16_384
_LOW = 0xFFFFFFFF


class TopPictures:
    """A running top K for U units, vectorised over units, with what is needed to treat ties fairly.

    Memory is 8 U K bytes for the state, 8 U classes for ties, and the same again for `UNITS_AT_A_TIME` units: at
    U = 100,352, K = 100 and eight classes 90 MB.

    Response and picture number share one 64-bit key, so that one `topk` sorts both and among equal responses the
    picture that came first stands first.

    Args:
        units: U.
        top: K.
        classes: number of classes.
        device: where the responses are.
    """

    def __init__(self, units: int, top: int, classes: int, device: torch.device | str = "cpu") -> None:
        if top < 1:
            raise UserError(f"top is {top}, expected 1 or more pictures a unit")
        self.top, self.classes = top, classes
        self.keys = torch.empty((units, 0), dtype=torch.int64, device=device)
        # Pictures whose response equals the lowest kept one, but which found no place, by class.
        self.crowded_out = torch.zeros((units, classes), dtype=torch.int32, device=device)
        self.lowest = torch.full((units,), torch.inf, device=device)
        self.highest = torch.full((units,), -torch.inf, device=device)
        self.seen: list[Tensor] = []

    def update(self, values: Tensor, labels: Tensor) -> None:
        """Take in the responses (B, U), finite, of the next B pictures and their class numbers (B,)."""
        first = sum(map(len, self.seen))
        self.seen.append(labels.to(self.keys.device, torch.int64))
        all_labels = torch.cat(self.seen)
        kept = min(len(all_labels), self.top)
        grown = self.keys.new_empty((len(self.keys), kept))
        for start in range(0, len(self.keys), UNITS_AT_A_TIME):
            part = slice(start, start + UNITS_AT_A_TIME)
            responses_of_units = values[:, part].T.float().contiguous()
            self.lowest[part] = torch.minimum(self.lowest[part], responses_of_units.amin(dim=1))
            self.highest[part] = torch.maximum(self.highest[part], responses_of_units.amax(dim=1))
            grown[part] = self._merge(part, _keys(responses_of_units, first), all_labels, kept)
        self.keys = grown

    def _merge(self, part: slice, new: Tensor, labels: Tensor, kept: int) -> Tensor:
        old = self.keys[part]
        found = torch.cat([old, new], dim=1)
        merged = found.topk(kept, dim=1).values
        if found.shape[1] > kept:
            threshold = merged[:, -1:] >> 32
            stays = (
                old[:, -1] >> 32 == threshold[:, 0]
                if old.shape[1]
                else old.new_zeros(len(old), dtype=torch.bool)
            )
            self.crowded_out[part] *= stays[:, None]
            self.crowded_out[part] += self._count(found, threshold, labels)
            self.crowded_out[part] -= self._count(merged, threshold, labels)
        return merged

    def _count(self, keys: Tensor, threshold: Tensor, labels: Tensor) -> Tensor:
        """Pictures of each class whose response equals the threshold, (U, classes)."""
        equal = (keys >> 32 == threshold).to(torch.int32)
        counts = self.crowded_out.new_zeros((len(keys), self.classes))
        return counts.scatter_add_(1, labels[_pictures(keys)], equal)

    @property
    def pictures(self) -> Tensor:
        """(U, min(K, N)) int64 picture numbers, highest response first; of equal ones the earlier picture first."""
        return _pictures(self.keys)

    @property
    def constant(self) -> Tensor:
        """(U,) whether a unit gave the same response to every picture."""
        return self.lowest == self.highest

    def histograms(self) -> Tensor:
        """The share of each class among the top pictures of every unit, (U, classes) float64, rows sum to 1.

        Pictures tied at the last place share it: with m places left for n pictures of one response, each counts
        m / n. So the order of the pictures has no say, and a constant unit has the shares of the whole set. With K
        or fewer pictures, all of them count, and every unit has the shares of the whole set.
        """
        if not self.keys.shape[1]:
            raise UserError("expected one picture at least, got none")
        labels = torch.cat(self.seen)
        shares = torch.empty(self.crowded_out.shape, dtype=torch.float64, device=self.keys.device)
        for start in range(0, len(self.keys), UNITS_AT_A_TIME):
            part = slice(start, start + UNITS_AT_A_TIME)
            keys = self.keys[part]
            threshold = keys[:, -1:] >> 32
            classes = labels[_pictures(keys)]
            counts = torch.zeros((len(keys), self.classes), dtype=torch.float64, device=keys.device)
            counts.scatter_add_(1, classes, (keys >> 32 > threshold).double())
            places = keys.shape[1] - counts.sum(dim=1, keepdim=True)
            tied = (self._count(keys, threshold, labels) + self.crowded_out[part]).double()
            counts += tied * places / tied.sum(dim=1, keepdim=True)
            shares[part] = counts / keys.shape[1]
        return shares


def _keys(values: Tensor, first: int) -> Tensor:
    """(U, B) float32 and the number of the first picture -> (U, B) int64 that sort as (value, earlier picture)."""
    bits = (values + 0.0).view(torch.int32)  # adding 0 makes -0 and 0 one value
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    numbers = torch.arange(first, first + values.shape[1], device=values.device)
    return (ordered.to(torch.int64) << 32) | (_LOW - numbers)


def _pictures(keys: Tensor) -> Tensor:
    return _LOW - (keys & _LOW)


def top_pictures(
    model: nn.Module,
    pixels: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    names: Sequence[str],
    crop_px: int,
    top: int,
) -> dict[str, TopPictures]:
    """One pass over the pictures: layer name -> the top pictures of each of its units (channel and position).

    Raises:
        UserError: If a picture has no label, a class no picture, a layer does not exist, or a response is not finite.
    """
    check_labels(labels, classes, len(pixels))
    found: dict[str, TopPictures] = {}
    for first, outputs in responses(model, pixels, names, crop_px):
        for name, values in outputs.items():
            flat = values.flatten(1)
            if name not in found:
                found[name] = TopPictures(flat.shape[1], top, len(classes), flat.device)
            found[name].update(flat, torch.from_numpy(labels[first : first + len(flat)]))
    return found
