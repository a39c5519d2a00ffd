"""Mini-SAM as a predictor: answers lie where one clicked, a click is encoded once, wrong prompts are named."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prompting_toys import boxes_in_images, photo
from torch import Tensor, nn

from labhelpers.models import build
from labhelpers.models.mini_sam import Embedding, MiniSAM
from labhelpers.prompting import MiniSamPredictor, mask_iou
from labhelpers.prompting.predictor import KEPT

sides = st.integers(20, 150)
seeds = st.integers(0, 2**31)
quick = settings(max_examples=30, deadline=None)


class Painter(nn.Module):
    """In the place of Mini-SAM: discs at the foreground points, or the box, or the earlier mask, in what it is shown.

    The first candidate is the mask, the second all of the window, the third nothing; `ious` says which is best.
    """

    num_classes = 1
    enlarge = staticmethod(MiniSAM.enlarge)

    def __init__(self, ious: tuple[float, float, float] = (0.9, 0.5, 0.2), radius: float = 12):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.ious, self.radius = ious, radius
        self.encoded, self.decoded = 0, 0

    def encode(self, images: Tensor) -> Embedding:
        self.encoded += 1
        assert images.dtype == torch.uint8
        return Embedding(*[images.float()] * 4, size=tuple(images.shape[2:]))

    def decode(self, embedding, points, point_labels, boxes, mask_input, full_size):
        self.decoded += 1
        assert not full_size
        height, width = (-(-length // 8) * 2 for length in embedding.size)
        y, x = torch.meshgrid(torch.arange(height) * 4 + 1.5, torch.arange(width) * 4 + 1.5, indexing="ij")
        painted = torch.full((height, width), -20.0)
        for (at_x, at_y), label in zip(points[0], point_labels[0], strict=True):
            if label == 1:
                painted = torch.maximum(painted, self.radius - torch.hypot(x - at_x, y - at_y))
        if boxes is not None:
            x0, y0, x1, y1 = boxes[0] + torch.tensor([-0.5, -0.5, 0.5, 0.5])
            painted = torch.maximum(painted, torch.stack([x - x0, x1 - x, y - y0, y1 - y]).amin(0))
        if mask_input is not None:
            inside = nn.functional.interpolate(mask_input, (height, width), mode="bilinear", antialias=True)
            painted = torch.maximum(painted, inside[0, 0])
        everything, nothing = torch.full_like(painted, 20), torch.full_like(painted, -20)
        return torch.stack([painted, everything, nothing])[None], torch.tensor([self.ious])


@pytest.fixture(scope="module")
def network() -> MiniSAM:
    torch.manual_seed(0)
    return build("mini_sam", 1)


def predictor_on(image: np.ndarray, model: nn.Module | None = None, **options) -> MiniSamPredictor:
    predictor = MiniSamPredictor(model or Painter(), **options)
    predictor.set_image(image)
    return predictor


def centroid(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(0)[::-1]


# --- answers lie where one asked -------------------------------------------------------------------------------------


@quick
@given(height=sides, width=sides, seed=seeds, zoom=st.booleans())
@example(height=20, width=150, seed=0, zoom=True)
def test_a_click_is_answered_where_it_was(height, width, seed, zoom):
    rng = np.random.default_rng(seed)
    click = rng.uniform(-0.5, [width - 0.5, height - 0.5])  # from the first pixel's outer edge to the last's
    mask, iou = predictor_on(photo(height, width), Painter(radius=8), zoom=zoom).predict(click[None], np.ones(1))
    assert mask.shape == (height, width)
    assert mask.dtype == bool
    assert iou == pytest.approx(0.9)
    found = np.argwhere(mask)[:, ::-1]
    assert np.abs(found - click).max(1).min() <= 1.5
    inner = (found.min(0) > 0).all() and (found.max(0) < [width - 1, height - 1]).all()
    if inner:  # a whole disc
        assert np.abs(centroid(mask) - click).max() < 1.5


@pytest.mark.parametrize("click", [(-0.5, 10), (10, -0.4), (63.4, 59.4), (-0.3, -0.3)])
@pytest.mark.parametrize("zoom", [True, False])
def test_the_outer_half_of_the_first_pixel_belongs_to_the_image(click, zoom):
    mask, _ = predictor_on(photo(60, 64), zoom=zoom).predict(np.array([click]), np.ones(1))
    assert mask.any()
    assert np.abs(np.argwhere(mask)[:, ::-1] - click).max(1).min() <= 1


@quick
@given(boxes_in_images(), st.booleans())
def test_a_box_is_answered_where_it_was(case, zoom):
    (height, width), box = case
    x0, y0, x1, y1 = box.astype(int)
    truth = np.zeros((height, width), dtype=bool)
    truth[y0 : y1 + 1, x0 : x1 + 1] = True
    mask, _ = predictor_on(photo(height, width), zoom=zoom).predict(box=box)
    if min(x1 - x0, y1 - y0) >= 8:
        assert mask_iou(mask, truth) > 0.75


@pytest.mark.parametrize("zoom", [True, False])
@pytest.mark.parametrize("size", [(60, 90), (129, 192), (200, 150)])
def test_an_earlier_mask_is_seen_where_it_was(size, zoom):
    earlier = np.zeros(size, dtype=bool)
    earlier[20:50, 40:80] = True
    mask, _ = predictor_on(photo(*size), zoom=zoom).predict(mask_input=earlier)
    assert mask_iou(mask, earlier) > 0.85


def test_a_background_click_beside_the_window_is_left_out_and_one_inside_is_not():
    heard = []

    class Listener(Painter):
        def decode(self, embedding, points, point_labels, *rest, **options):
            heard.append(point_labels[0].tolist())
            return super().decode(embedding, points, point_labels, *rest, **options)

    predictor = predictor_on(photo(150, 150), Listener(radius=8))
    predictor.predict(np.array([[20.0, 20], [25, 25], [140, 140]]), np.array([1, 0, 0]))
    assert heard == [[1, 0, 0], [1, 0]]


def test_the_best_candidate_by_predicted_iou_and_all_in_that_order():
    for ious, first in (((0.9, 0.5, 0.2), "painted"), ((0.3, 0.8, 0.5), "all"), ((0.3, 0.5, 0.8), "none")):
        predictor = predictor_on(photo(64, 64), Painter(ious), zoom=False)
        one, iou = predictor.predict(np.array([[30.0, 30.0]]), np.ones(1))
        every, values = predictor.predict(np.array([[30.0, 30.0]]), np.ones(1), multimask=True)
        assert every.shape == (3, 64, 64)
        np.testing.assert_allclose(values, sorted(ious, reverse=True))
        np.testing.assert_array_equal(every[0], one)
        assert iou == pytest.approx(max(ious))
        assert {"painted": 0 < one.mean() < 0.5, "all": one.all(), "none": not one.any()}[first]


# --- encode once -----------------------------------------------------------------------------------------------------


def test_without_zoom_an_image_is_encoded_once():
    model = Painter()
    predictor = predictor_on(photo(60, 90), model, zoom=False)
    for x in range(5):
        predictor.predict(np.array([[10.0 * x, 20.0]]), np.ones(1))
    assert (model.encoded, model.decoded) == (1, 5)
    predictor.set_image(photo(60, 90, seed=1))
    assert model.encoded == 2


def test_with_zoom_the_same_question_costs_no_second_encoding_and_few_windows_are_kept():
    model = Painter()
    predictor = predictor_on(photo(150, 150), model)
    first = predictor.predict(np.array([[30.0, 40.0]]), np.ones(1))
    encoded = model.encoded
    assert encoded == 2  # the whole, and a window
    again = predictor.predict(np.array([[30.0, 40.0]]), np.ones(1))
    assert model.encoded == encoded
    for corner in range(0, 100, 5):
        predictor.predict(box=np.array([corner, corner, corner + 20, corner + 30]))
    assert len(predictor._embeddings) <= KEPT + 1
    later = predictor.predict(np.array([[30.0, 40.0]]), np.ones(1))
    for answer in (again, later):
        np.testing.assert_array_equal(answer[0], first[0])
        assert answer[1] == first[1]


def test_nothing_is_left_of_the_image_before(network):
    """Of the same size, so that the windows are the same."""
    prompt = {"points": np.array([[50.0, 30.0]]), "labels": np.ones(1)}
    predictor = predictor_on(photo(60, 90, seed=1), network)
    _, iou_before = predictor.predict(**prompt)
    predictor.set_image(photo(60, 90, seed=2))
    mask, iou = predictor.predict(**prompt)
    expected, expected_iou = predictor_on(photo(60, 90, seed=2), network).predict(**prompt)
    np.testing.assert_array_equal(mask, expected)
    assert iou == expected_iou != iou_before


# --- the real network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zoom", [True, False])
def test_every_mix_of_prompts(network, zoom):
    predictor = predictor_on(photo(60, 90), network, zoom=zoom)
    some = {"points": np.array([[10, 20], [70.5, 5.25]]), "labels": np.array([1, 0])}
    box, earlier = {"box": [5, 5, 60, 50]}, {"mask_input": np.eye(60, 90, dtype=bool)}
    for prompt in (some, box, earlier, some | box, some | earlier, box | earlier, some | box | earlier):
        mask, iou = predictor.predict(**prompt)
        assert (mask.shape, mask.dtype) == ((60, 90), bool)
        assert isinstance(iou, float)
        assert 0 <= iou <= 1
        masks, ious = predictor.predict(**prompt, multimask=True)
        assert (masks.shape, masks.dtype) == ((3, 60, 90), bool)
        assert ious.shape == (3,)
        assert (np.diff(ious) <= 0).all()
    assert predictor.class_name is None


@pytest.mark.parametrize(
    "prompt", [{"points": [[10, 20]], "labels": [1]}, {"box": [5, 5, 60, 50]}], ids=["click", "box"]
)
def test_a_semantic_head_names_the_class_that_it_marks(prompt):
    """A network that is sure of a cat (8) everywhere but for a background that is surer still elsewhere."""
    torch.manual_seed(0)
    model = build("mini_sam", 21)
    last = model.mask_head[-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    last.bias.data[8] = 5.0
    predictor = predictor_on(photo(60, 90), model, name="semantic")
    assert predictor.class_name is None
    mask, iou = predictor.predict(**prompt)
    assert predictor.class_name == "cat"
    assert mask.any()
    assert 0 <= iou <= 1
    masks, ious = predictor.predict(**prompt, multimask=True)
    assert (masks.shape, ious.shape) == ((1, 60, 90), (1,))
    last.bias.data[0] = 9.0  # background: the cat is still what is meant, but nowhere the most likely
    mask, _ = predictor.predict(**prompt)
    assert predictor.class_name == "cat"
    assert not mask.any()


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "no prompt"),
        ({"points": np.empty((0, 2)), "labels": np.empty(0)}, "no prompt"),
        ({"points": [[1, 2]]}, "points and labels belong together"),
        ({"labels": [1]}, "points and labels belong together"),
        ({"points": [1, 2], "labels": [1]}, r"points must be \(N, 2\) and labels \(N,\), got \(2,\) and \(1,\)"),
        ({"points": [[1, 2]], "labels": [1, 0]}, r"points must be \(N, 2\) and labels \(N,\)"),
        ({"points": [[90, 2]], "labels": [1]}, "points .*image"),
        ({"points": [[np.nan, 2]], "labels": [1]}, "points .*image"),
        ({"points": [[1, 2]], "labels": [2]}, r"labels must be 1 \(foreground\) or 0 \(background\), got \[2\]"),
        ({"box": [1, 2, 3]}, "box must be x0, y0, x1, y1"),
        ({"box": [30, 2, 3, 4]}, "box must be x0, y0, x1, y1 with x0 <= x1"),
        ({"box": [np.nan, 2, 3, 4]}, "box must be x0, y0, x1, y1"),
        ({"mask_input": np.ones((3, 4), bool)}, r"mask_input must be bool of the image's size \(60, 90\)"),
        ({"mask_input": np.ones((60, 90))}, "mask_input must be bool of the image's size .* got float64"),
    ],
)
def test_wrong_prompts_are_named(prompt, message):
    with pytest.raises(ValueError, match=message):
        predictor_on(photo(60, 90)).predict(**prompt)


@pytest.mark.parametrize(
    "image", [photo(60, 90).astype(float), photo(60, 90)[..., 0], photo(60, 90).transpose(2, 0, 1), "photo.jpg"]
)
def test_an_image_that_is_none(image):
    with pytest.raises(ValueError, match=r"set_image needs a uint8 array \(H, W, 3\), RGB, got"):
        MiniSamPredictor(Painter()).set_image(image)


def test_a_prompt_before_an_image():
    with pytest.raises(RuntimeError, match="no image yet: call set_image first"):
        MiniSamPredictor(Painter()).predict(box=[1, 2, 3, 4])


def test_an_image_that_could_not_be_encoded_is_not_there(monkeypatch):
    predictor = predictor_on(photo())
    monkeypatch.setattr(predictor.model, "encode", None)
    with pytest.raises(TypeError):
        predictor.set_image(photo(seed=1))
    assert predictor.image is None
    with pytest.raises(RuntimeError, match="no image yet"):
        predictor.predict(box=[1, 2, 3, 4])


def test_the_second_look_refines_what_the_first_found_or_what_was_given(monkeypatch):
    predictor = MiniSamPredictor(build("mini_sam", 1))
    predictor.set_image(np.zeros((200, 300, 3), dtype=np.uint8))
    answer = np.zeros((200, 300), dtype=bool)
    answer[90:110, 140:170] = True
    looks = []

    def look(window, prompt, multimask):
        looks.append((window, prompt.mask))
        return torch.from_numpy(answer)[None] * 2.0 - 1, torch.ones(1)

    monkeypatch.setattr(predictor, "_look", look)
    click = {"points": np.array([[150, 100]]), "labels": np.array([1])}
    predictor.predict(**click)
    (whole, nothing), (window, refined) = looks
    assert (whole.x1 - whole.x0, nothing) == (300, None)
    assert window.x1 - window.x0 < 100
    assert (refined == answer).all()
    earlier = np.roll(answer, 20, axis=1)
    predictor.predict(**click, mask_input=earlier)
    assert len(looks) == 3  # the earlier mask says where to look
    assert (looks[2][1] == earlier).all()
