"""The predictor: windows keep positions, a click is encoded once, answers lie where one clicked; weights in and out."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from labhelpers.models import build
from labhelpers.models.mini_sam import Embedding, MiniSAM
from labhelpers.prompting import MiniSamPredictor, load_mini_sam, load_predictor
from labhelpers.prompting import shipped as shipped_module
from labhelpers.prompting.predictor import KEPT
from labhelpers.prompting.shipped import save_mini_sam
from labhelpers.prompting.windows import Window

sides = st.integers(20, 150)
seeds = st.integers(0, 2**31)
quick = settings(max_examples=30, deadline=None)


class Painter(nn.Module):
    """In the place of Mini-SAM: discs at the foreground points, or the box, or the earlier mask, in what it is shown.

    The first candidate is the mask, the second all of the window, the third nothing; ``ious`` says which is best.
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


def photo(height: int = 60, width: int = 90, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def predictor_on(image: np.ndarray, model: nn.Module | None = None, **options) -> MiniSamPredictor:
    predictor = MiniSamPredictor(model or Painter(), **options)
    predictor.set_image(image)
    return predictor


def centroid(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(0)[::-1]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


# --- windows ---------------------------------------------------------------------------------------------------------


@st.composite
def boxes_in_images(draw):
    height, width = draw(sides), draw(sides)
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return (height, width), np.array(
        [x0, y0, draw(st.integers(x0, width - 1)), draw(st.integers(y0, height - 1))], float
    )


@quick
@given(boxes_in_images(), st.floats(1.3, 3))
def test_a_window_is_a_square_around_the_box_inside_the_image_where_it_can_be(case, margin):
    (height, width), box = case
    window = Window.around(box, margin, (height, width), 128)
    extent = window.x1 - window.x0
    assert window.y1 - window.y0 == extent
    assert extent >= max(box[2] - box[0], box[3] - box[1]) + 1
    for low, high, length, first, last in (
        (window.x0, window.x1, width, box[0], box[2]),
        (window.y0, window.y1, height, box[1], box[3]),
    ):
        assert (low >= 0 and high <= length) if extent <= length else (low <= 0 and high >= length)
        assert low <= first
        assert last < high


@quick
@given(boxes_in_images())
def test_points_and_boxes_have_their_window_s_scale(case):
    (height, width), box = case
    window = Window.around(box, 2.0, (height, width), 128)
    scale = 128 / (window.x1 - window.x0)
    # The outer corner of the first pixel is that of the window's first pixel, likewise the last.
    corners = np.array([[window.x0 - 0.5, window.y0 - 0.5], [window.x1 - 0.5, window.y1 - 0.5]])
    np.testing.assert_allclose(window.points(corners), [[-0.5, -0.5], [127.5, 127.5]], atol=1e-4)
    moved = window.box(box)
    np.testing.assert_allclose(moved[2:] - moved[:2] + 1, (box[2:] - box[:2] + 1) * scale, rtol=1e-4)
    np.testing.assert_allclose((moved[:2] + moved[2:]) / 2, window.points((box[:2] + box[2:]) / 2), atol=1e-3)


@quick
@given(boxes_in_images())
def test_what_is_cut_and_pasted_lies_where_it_was(case):
    (height, width), box = case
    window = Window.around(box, 1.4, (height, width), 128)
    x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    ramps = torch.stack([x, y]).to(torch.uint8)
    pasted = window.paste(window.cut(ramps, torch.zeros(2, 1, 1)).float(), (height, width), outside=-1.0)
    seen = (x >= window.x0) & (x < window.x1) & (y >= window.y0) & (y < window.y1)
    assert (pasted[:, ~seen] == -1).all()
    margin = 4  # of the window's edge, and the image's, where interpolation lacks a neighbour
    edges = [max(window.x0, 0), max(window.y0, 0), min(window.x1, width), min(window.y1, height)]
    inner = (x >= edges[0] + margin) & (x < edges[2] - margin) & (y >= edges[1] + margin) & (y < edges[3] - margin)
    if inner.any():
        assert (pasted - ramps)[:, inner].abs().max() < 1.1


@quick
@given(sides, sides)
def test_the_whole_image_keeps_its_proportions(height, width):
    window = Window.whole((height, width), 96)
    assert max(window.width, window.height) == 96
    assert abs(window.width / window.height - width / height) < 0.06 * width / height
    assert window.cut(torch.zeros(3, height, width, dtype=torch.uint8)).shape == (3, window.height, window.width)


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
        assert overlap(mask, truth) > 0.75


@pytest.mark.parametrize("zoom", [True, False])
@pytest.mark.parametrize("size", [(60, 90), (129, 192), (200, 150)])
def test_an_earlier_mask_is_seen_where_it_was(size, zoom):
    earlier = np.zeros(size, dtype=bool)
    earlier[20:50, 40:80] = True
    mask, _ = predictor_on(photo(*size), zoom=zoom).predict(mask_input=earlier)
    assert overlap(mask, earlier) > 0.85


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
    predictor = predictor_on(photo(), model, zoom=False)
    for x in range(5):
        predictor.predict(np.array([[10.0 * x, 20.0]]), np.ones(1))
    assert (model.encoded, model.decoded) == (1, 5)
    predictor.set_image(photo(seed=1))
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
    predictor = predictor_on(photo(seed=1), network)
    _, iou_before = predictor.predict(**prompt)
    predictor.set_image(photo(seed=2))
    mask, iou = predictor.predict(**prompt)
    expected, expected_iou = predictor_on(photo(seed=2), network).predict(**prompt)
    np.testing.assert_array_equal(mask, expected)
    assert iou == expected_iou != iou_before


# --- the real network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zoom", [True, False])
def test_every_mix_of_prompts(network, zoom):
    predictor = predictor_on(photo(), network, zoom=zoom)
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
    predictor = predictor_on(photo(), model, name="semantic")
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
        predictor_on(photo()).predict(**prompt)


@pytest.mark.parametrize("image", [photo().astype(float), photo()[..., 0], photo().transpose(2, 0, 1), "photo.jpg"])
def test_an_image_that_is_none(image):
    with pytest.raises(ValueError, match=r"set_image needs a uint8 array \(H, W, 3\), RGB, got"):
        MiniSamPredictor(Painter()).set_image(image)


def test_a_prompt_before_an_image():
    with pytest.raises(RuntimeError, match="no image yet: call set_image first"):
        MiniSamPredictor(Painter()).predict(box=[1, 2, 3, 4])


# --- weights ---------------------------------------------------------------------------------------------------------


def test_weights_come_back_in_half_precision_both_heads_from_one_file(tmp_path, network):
    torch.manual_seed(1)
    semantic = build("mini_sam", 21)
    semantic.load_state_dict({**semantic.state_dict(), **network.image_encoder.state_dict(prefix="image_encoder.")})
    file = tmp_path / "both.safetensors"
    save_mini_sam(file, network, semantic, about={"steps": "0"})
    alone = tmp_path / "alone.safetensors"
    save_mini_sam(alone, semantic)
    assert file.stat().st_size < 12e6
    assert file.stat().st_size < 1.25 * alone.stat().st_size  # the encoder is there once
    for saved in (network, semantic):
        loaded = load_mini_sam(file, num_classes=saved.num_classes)
        assert not loaded.training
        for (name, value), original in zip(loaded.state_dict().items(), saved.state_dict().values(), strict=True):
            assert value.dtype == original.dtype, name
            torch.testing.assert_close(value, original, rtol=1e-3, atol=1e-6, msg=name)


def test_weights_of_another_model_are_refused(tmp_path, network):
    file = tmp_path / "objects.safetensors"
    save_mini_sam(file, network)
    with pytest.raises(ValueError, match=r"objects\.safetensors does not fit MiniSAM with num_classes=21"):
        load_mini_sam(file, num_classes=21)


def test_missing_weights_and_unknown_predictors_say_so(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped_module, "__file__", str(tmp_path / "labhelpers" / "prompting" / "shipped.py"))
    with pytest.raises(FileNotFoundError, match=r"weights of Mini-SAM are missing .*checkpoints.mini_sam\.safetensors"):
        load_predictor("mini_sam")
    with pytest.raises(ValueError, match="unknown predictor 'sam9'; known: mini_sam, mini_sam_semantic"):
        load_predictor("sam9")


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
