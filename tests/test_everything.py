"""Segment everything: by the library's pipeline for SAM, click by click for any other predictor."""

import numpy as np
import pytest
from prompting_toys import picture
from tiny_sam import write_tiny_sam

from labhelpers.models.sam import load_sam_folder
from labhelpers.prompting import SamPredictor, segment_everything


class Blobs:
    """Each click gives the block of 16 pixels it is in (IoU 0.9), its left half (0.6) and an empty mask (1.0)."""

    name, class_name, image = "blobs", None, None

    def set_image(self, image):
        self.image, self.clicks = image, []

    def predict(self, points=None, labels=None, box=None, mask_input=None, multimask=False):
        assert multimask
        assert labels.tolist() == [1]
        x, y = points[0]
        self.clicks.append((x, y))
        masks = np.zeros((3, *self.image.shape[:2]), dtype=bool)
        left, top = int((x + 0.5) // 16) * 16, int((y + 0.5) // 16) * 16
        masks[1, top : top + 16, left : left + 16] = True
        masks[2, top : top + 16, left : left + 8] = True
        return masks, np.array([1.0, 0.9, 0.6])


def test_click_by_click_every_block_is_found_once():
    predictor = Blobs()
    found = segment_everything(predictor, picture(48, 64), grid=8)
    assert len(found) == 12
    assert found.masks.shape == (12, 48, 64)
    assert found.masks.dtype == bool
    assert (found.masks.sum(0) == 1).all()
    assert np.allclose(found.ious, 0.9)
    assert found.how == "8 x 8 clicks, predicted IoU above 0.88, box overlap at most 0.7"
    clicks = np.array(predictor.clicks)
    assert len(clicks) == 64
    assert np.allclose(clicks.mean(0), [31.5, 23.5])  # the grid is centred: pixel centres are whole numbers
    assert np.allclose(clicks[0], [3.5, 2.5])


def test_a_lower_bar_lets_the_halves_in_and_a_lower_overlap_keeps_them_out():
    image = picture(48, 64)
    found = segment_everything(Blobs(), image, grid=4, min_iou=0.5)
    assert sorted(found.masks.sum((1, 2)).tolist()) == [128] * 12 + [256] * 12
    assert (np.diff(found.ious) <= 0).all()  # the best first
    assert len(segment_everything(Blobs(), image, grid=4, min_iou=0.5, max_overlap=0.4)) == 12


def test_nothing_found_is_an_empty_answer():
    found = segment_everything(Blobs(), picture(48, 64), grid=2, min_iou=1.0)
    assert found.masks.shape == (0, 48, 64)
    assert found.ious.shape == (0,)


@pytest.fixture(scope="module", params=["sam", "sam_hq", "sam2"])
def sam(request, tmp_path_factory):
    return SamPredictor(load_sam_folder(write_tiny_sam(tmp_path_factory.mktemp("sam") / request.param, request.param)))


def test_the_pipeline_finds_masks_that_single_clicks_give_too(sam, capfd):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)  # not resized, so that coordinates agree
    found = segment_everything(sam, image, grid=3, min_iou=0.01, min_stability=0.0, max_overlap=0.95)
    assert capfd.readouterr() == ("", "")
    assert len(found) > 0
    assert found.masks.shape == (len(found), 64, 64)
    assert found.masks.dtype == bool
    assert (np.diff(found.ious) <= 0).all()
    assert found.ious.min() > 0.01
    assert found.ious.max() <= 1
    assert "stability at least 0" in found.how
    sam.set_image(image)
    share = (np.arange(3) + 0.5) / 3 * 64
    candidates = [
        mask for y in share for x in share for mask in sam.predict([[x, y]], [1], multimask=True)[0] if mask.any()
    ]
    for mask in found.masks:
        assert max((mask & one).sum() / (mask | one).sum() for one in candidates) > 0.97


def test_the_filters_of_the_pipeline_are_ours(sam):
    image = np.random.default_rng(3).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    loose = {"grid": 3, "min_iou": 0.01, "min_stability": 0.0, "max_overlap": 1.0}
    count = len(segment_everything(sam, image, **loose))
    assert count > 1
    for tighter in ({"max_overlap": 0.01}, {"min_stability": 0.999}, {"min_iou": 1.5}):
        assert len(segment_everything(sam, image, **{**loose, **tighter})) < count
    assert segment_everything(sam, image, grid=3, min_iou=1.5).masks.shape == (0, 40, 64)


def test_other_images_and_grids_are_refused(sam):
    for predictor in (sam, Blobs()):
        with pytest.raises(ValueError, match=r"needs a uint8 array \(H, W, 3\)"):
            segment_everything(predictor, np.zeros((4, 4)))
        with pytest.raises(ValueError, match="grid must be at least 1, got 0"):
            segment_everything(predictor, picture(), grid=0)
