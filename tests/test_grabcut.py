"""What a box gives without a network."""

import numpy as np
import pytest
from prompting_toys import MemoryDataset, rectangles

from labhelpers.prompting import BoxEllipse, FilledBox, GrabCut, evaluate_prompts, grabcut_box, mask_iou

BOX = np.array([15, 10, 48, 45])


def noisy_ball(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A reddish ball on greenish ground, uint8 (64, 64, 3), and its mask; it fills BOX but for the corners."""
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[:64, :64]
    mask = ((x - 31.5) / 17) ** 2 + ((y - 27.5) / 18) ** 2 <= 1
    image = rng.normal([60, 140, 80], noise, (64, 64, 3))
    image[mask] = rng.normal([170, 80, 70], noise, (mask.sum(), 3))
    return image.clip(0, 255).astype(np.uint8), mask


@pytest.fixture
def ball() -> tuple[np.ndarray, np.ndarray]:
    return noisy_ball(18)


def ask(predictor, image, **prompt):
    predictor.set_image(image)
    return predictor.predict(**prompt)


def test_grabcut_finds_what_differs_in_colour(ball):
    image, truth = ball
    found = grabcut_box(image, BOX)
    assert (found.dtype, found.shape) == (bool, (64, 64))
    assert mask_iou(found, truth) > 0.97
    assert mask_iou(ask(FilledBox(), image, box=BOX)[0], truth) < 0.8
    loose = grabcut_box(image, BOX + [-8, -6, 9, 10])
    assert mask_iou(loose, truth) > 0.97


def test_nothing_outside_the_box_is_foreground(ball):
    image, truth = ball
    cut = grabcut_box(image, np.array([15, 10, 48, 42]))  # the ball's last three rows stick out
    assert mask_iou(cut[:43], truth[:43]) > 0.97
    assert truth[43:].any()
    assert not cut[43:].any()


def test_the_same_each_time():
    """In so much noise the start of the mixtures decides between the ball and nothing at all."""
    import cv2

    image, _ = noisy_ball(44, seed=1)
    found = set()
    for state in range(6):
        cv2.setRNGSeed(state)
        found.add(int(grabcut_box(image, BOX).sum()))
    assert len(found) == 1


def test_boxes_at_the_limits(ball):
    image, _ = ball
    assert grabcut_box(image, np.array([0, 0, 63, 63])).all()  # no background to learn: the box
    assert grabcut_box(image, np.array([-3, -2, 70, 64])).all()
    assert grabcut_box(image, np.array([20, 20, 20, 20])).sum() <= 1
    with pytest.raises(ValueError, match=r"the box \[70.0, 5.0, 80.0, 9.0\] holds no pixel of an image of 64x64"):
        grabcut_box(image, np.array([70.0, 5.0, 80.0, 9.0]))


def test_a_filled_box_holds_its_extreme_pixels(ball):
    mask, estimate = ask(FilledBox(), ball[0], box=np.array([3, 5, 6, 5]))
    y, x = np.nonzero(mask)
    assert (x.tolist(), y.tolist()) == ([3, 4, 5, 6], [5, 5, 5, 5])
    assert np.isnan(estimate)
    rounded, _ = ask(FilledBox(), ball[0], box=np.array([2.6, 4.6, 6.4, 5.4]))
    assert np.array_equal(rounded, mask)


def test_an_ellipse_touches_the_edges_of_its_box(ball):
    mask, _ = ask(BoxEllipse(), ball[0], box=BOX)
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    assert [columns[0], rows[0], columns[-1], rows[-1]] == BOX.tolist()
    assert mask.sum() == pytest.approx(np.pi / 4 * 34 * 36, rel=0.02)
    small, _ = ask(BoxEllipse(), ball[0], box=np.array([7, 9, 7, 9]))
    assert np.argwhere(small).tolist() == [[9, 7]]


@pytest.mark.parametrize("predictor", [FilledBox(), BoxEllipse(), GrabCut()], ids=lambda p: p.name)
def test_they_answer_boxes_only(ball, predictor):
    image, click = ball[0], {"points": np.array([[30, 30]]), "labels": np.array([1])}
    with pytest.raises(
        ValueError, match=rf"{predictor.name} needs a box and takes nothing else, got points, labels: it"
    ):
        ask(predictor, image, **click)
    with pytest.raises(ValueError, match="got points, labels beside it"):
        ask(predictor, image, box=BOX, **click)
    with pytest.raises(ValueError, match="got multimask beside it"):
        ask(predictor, image, box=BOX, multimask=True)
    with pytest.raises(ValueError, match="needs a box and takes nothing else, got nothing"):
        ask(predictor, image)
    with pytest.raises(ValueError, match="box must be x0, y0, x1, y1"):
        ask(predictor, image, box=BOX[::-1])
    with pytest.raises(RuntimeError, match="call set_image first"):
        type(predictor)().predict(box=BOX)
    assert predictor.class_name is None


def test_they_are_scored_like_every_predictor():
    toys = MemoryDataset([rectangles(64, 96, (2, 3, 41, 42, 1), (50, 10, 89, 49, 2))])
    assert evaluate_prompts(FilledBox(), toys, prompts=("box",)).mean("box").value == 1
    assert evaluate_prompts(GrabCut(), toys, prompts=("box",)).mean("box").value == 1
    ellipse = evaluate_prompts(BoxEllipse(), toys, prompts=("box", "jittered_box"))
    assert ellipse.mean("box").value == pytest.approx(np.pi / 4, rel=0.02)
    assert ellipse.mean("jittered_box").value < ellipse.mean("box").value
