"""Mini-SAM as a predictor: answers lie where one clicked, windows, what is encoded once, and the weights that ship."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prompting_toys import boxes_in_images, photo
from torch import Tensor, nn

from labhelpers.data.voc import VOC_CLASSES
from labhelpers.models import BaseMiniSAM, build, build_encoder, shipped
from labhelpers.models.mini_sam import Embedding, MiniSAM
from labhelpers.models.shipped import shipped_weights
from labhelpers.prompting import (
    FilledBox,
    MiniSamPredictor,
    OneLook,
    Predictor,
    Prompt,
    load_mini_sam,
    load_predictor,
    mask_iou,
)
from labhelpers.prompting.predictor import KEPT
from labhelpers.prompting.shipped import fuse_norms, save_mini_sam
from labhelpers.prompting.windows import Window

CLICK = {"points": np.array([[30.0, 40.0]]), "labels": np.ones(1)}
NOTHING = torch.zeros(1, 1, 1)  # beyond the image
sides = st.integers(20, 150)
quick = settings(max_examples=30, deadline=None)
LOOKS = (MiniSamPredictor, OneLook)
looks = pytest.mark.parametrize("kind", LOOKS)


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
        return Embedding(images.float(), tuple(images.shape[2:]))

    def decode(self, embedding, points, point_labels, boxes, mask_input=None, full_size=True):
        self.decoded += 1
        height, width = (-(-length // 8) * 2 for length in embedding.size)
        y, x = torch.meshgrid(torch.arange(height) * 4 + 1.5, torch.arange(width) * 4 + 1.5, indexing="ij")
        painted = torch.full((height, width), -20.0)
        for (at_x, at_y), label in zip(points[0], point_labels[0], strict=True) if points is not None else ():
            if label == 1:
                painted = torch.maximum(painted, self.radius - torch.hypot(x - at_x, y - at_y))
        if boxes is not None:
            x0, y0, x1, y1 = boxes[0] + torch.tensor([-0.5, -0.5, 0.5, 0.5])
            painted = torch.maximum(painted, torch.stack([x - x0, x1 - x, y - y0, y1 - y]).amin(0))
        if mask_input is not None:
            inside = nn.functional.interpolate(mask_input, (height, width), mode="bilinear", antialias=True)
            painted = torch.maximum(painted, inside[0, 0])
        everything, nothing = torch.full_like(painted, 20), torch.full_like(painted, -20)
        logits = torch.stack([painted, everything, nothing])[None]
        return self.enlarge(logits, embedding.size) if full_size else logits, torch.tensor([self.ious])


@pytest.fixture(scope="module")
def network() -> MiniSAM:
    torch.manual_seed(0)
    return build("mini_sam", 1)


@pytest.fixture(scope="module")
def base() -> BaseMiniSAM:
    torch.manual_seed(0)
    return BaseMiniSAM(build_encoder("resnet18", width=8))


def predictor_on(
    image: np.ndarray, model: nn.Module | None = None, kind: type[Predictor] = MiniSamPredictor, **options
) -> Predictor:
    predictor = kind(model or Painter(), **options)
    predictor.set_image(image)
    return predictor


# --- answers lie where one asked ---
@pytest.mark.parametrize("size", [(300, 12000), (9000, 90), (1, 4000), (4000, 1), (900, 4001)])
def test_a_very_long_picture_costs_what_its_pixels_cost(size, monkeypatch):
    largest, interpolate = 0, nn.functional.interpolate

    def watched(image, *args, **kwargs):
        nonlocal largest
        made = interpolate(image, *args, **kwargs)
        largest = max(largest, image.numel(), made.numel())
        return made

    predictor = predictor_on(np.zeros((*size, 3), np.uint8))
    monkeypatch.setattr(nn.functional, "interpolate", watched)
    box = np.array([0.0, 0.0, size[1] - 1, size[0] - 1])
    mask, _ = predictor.predict(box=box)
    refined, _ = predictor.predict(box=box, mask_input=mask)
    assert mask.shape == refined.shape == size
    if 8 * min(size) > max(size):  # else it is thinner than the four pixels that a logit stands for
        assert min(mask.mean(), refined.mean()) > 0.95
    assert largest < 4 * mask.size + 13_000_000


@quick
@given(height=sides, width=sides, share=st.tuples(*[st.floats(0.03, 0.97)] * 2), kind=st.sampled_from(LOOKS))
@example(height=20, width=150, share=(0.3, 0.6), kind=MiniSamPredictor)
# The outer half of the first pixel belongs to the image.
@example(height=60, width=64, share=(0, 0.17), kind=MiniSamPredictor)
@example(height=60, width=64, share=(0.16, 0.002), kind=OneLook)
@example(height=60, width=64, share=(0.998, 0.998), kind=MiniSamPredictor)
@example(height=60, width=64, share=(0.003, 0.003), kind=OneLook)
def test_a_click_is_answered_where_it_was(height, width, share, kind):
    click = np.array(share) * [width, height] - 0.5  # from the first pixel's outer edge to the last's
    mask, iou = predictor_on(photo(height, width), Painter(radius=8), kind).predict(click[None], np.ones(1))
    assert (mask.shape, mask.dtype) == ((height, width), bool)
    assert iou == pytest.approx(0.9)
    found = np.argwhere(mask)[:, ::-1]
    assert np.abs(found - click).max(1).min() <= 1.5
    if (found.min(0) > 0).all() and (found.max(0) < [width - 1, height - 1]).all():  # a whole disc
        assert np.abs(found.mean(0) - click).max() < 1.5


@quick
@given(boxes_in_images(), st.sampled_from(LOOKS))
def test_a_box_is_answered_where_it_was(case, kind):
    (height, width), box = case
    x0, y0, x1, y1 = box.astype(int)
    truth = np.zeros((height, width), dtype=bool)
    truth[y0 : y1 + 1, x0 : x1 + 1] = True
    mask, _ = predictor_on(photo(height, width), kind=kind).predict(box=box)
    if min(x1 - x0, y1 - y0) >= 8:
        assert mask_iou(mask, truth) > 0.75


@pytest.mark.parametrize("large", [False, True])  # in a window, or in the whole image
@pytest.mark.parametrize("size", [(60, 90), (129, 192), (200, 150)])
def test_an_earlier_mask_is_seen_where_it_was(size, large):
    earlier = np.zeros(size, dtype=bool)
    earlier[np.s_[5:-5, 5:-5] if large else np.s_[20:50, 40:80]] = True
    mask, _ = predictor_on(photo(*size)).predict(mask_input=earlier)
    assert mask_iou(mask, earlier) > 0.85


def test_one_look_does_not_look_at_an_earlier_mask():
    predictor, earlier = predictor_on(photo(60, 90), kind=OneLook), np.eye(60, 90, dtype=bool)
    without, _ = predictor.predict(**CLICK)
    np.testing.assert_array_equal(predictor.predict(**CLICK, mask_input=earlier)[0], without)
    with pytest.raises(ValueError, match="no prompt: give points with labels, a box, or both"):
        predictor.predict(mask_input=earlier)


def test_a_background_click_beside_the_window_is_left_out_and_one_inside_is_not():
    heard = []

    class Listener(Painter):
        def decode(self, embedding, points, point_labels, *rest, **options):
            heard.append(point_labels[0].tolist())
            return super().decode(embedding, points, point_labels, *rest, **options)

    predictor = predictor_on(photo(150, 150), Listener(radius=8))
    predictor.predict(np.array([[20.0, 20], [25, 25], [140, 140]]), np.array([1, 0, 0]))
    assert heard == [[1, 0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("ious", "best"),
    [
        ((0.9, 0.5, 0.2), lambda mask: 0 < mask.mean() < 0.5),
        ((0.3, 0.8, 0.5), np.all),
        ((0.3, 0.5, 0.8), lambda mask: not mask.any()),
    ],
)
@looks
def test_the_best_candidate_by_predicted_iou_and_all_in_that_order(ious, best, kind):
    predictor = predictor_on(photo(64, 64), Painter(ious), kind)
    one, iou = predictor.predict(**CLICK)
    every, values = predictor.predict(**CLICK, multimask=True)
    assert every.shape == (3, 64, 64)
    np.testing.assert_allclose(values, sorted(ious, reverse=True))
    np.testing.assert_array_equal(every[0], one)
    assert iou == pytest.approx(max(ious))
    assert best(one)


def test_the_second_look_refines_what_the_first_found_or_what_was_given(monkeypatch):
    predictor = predictor_on(np.zeros((200, 300, 3), dtype=np.uint8))
    answer = np.zeros((200, 300), dtype=bool)
    answer[30:50, 20:50] = True
    looks = []

    def look(window, prompt, multimask):
        looks.append((window, prompt.mask))
        return torch.from_numpy(answer)[None] * 2.0 - 1, torch.ones(1)

    monkeypatch.setattr(predictor, "_look", look)
    predictor.predict(**CLICK)
    (whole, nothing), (window, refined) = looks
    assert (whole.x1 - whole.x0, nothing) == (300, None)
    assert window.x1 - window.x0 < 100
    assert (refined == answer).all()
    earlier = np.roll(answer, 20, axis=1)
    predictor.predict(**CLICK, mask_input=earlier)
    assert len(looks) == 3  # the earlier mask says where to look
    assert (looks[2][1] == earlier).all()


# --- encode once ---
def test_for_one_look_an_image_is_encoded_once():
    model = Painter()
    predictor = predictor_on(photo(60, 90), model, OneLook)
    for x in range(5):
        predictor.predict(np.array([[10.0 * x, 20.0]]), np.ones(1))
    assert (model.encoded, model.decoded) == (1, 5)
    predictor.set_image(photo(60, 90, seed=1))
    assert model.encoded == 2


@given(sides, sides, sides)
@quick
def test_one_look_sees_the_image_at_the_size_that_it_is_told(height, width, overview):
    predictor = predictor_on(photo(height, width), kind=OneLook, overview=overview)
    assert max(predictor._embedding.features.shape[2:]) == overview
    assert predictor.predict(box=[0, 0, width - 1, height - 1])[0].shape == (height, width)


def test_the_same_question_costs_no_second_encoding_and_few_windows_are_kept():
    model = Painter()
    predictor = predictor_on(photo(150, 150), model)
    answers = [predictor.predict(**CLICK) for _ in range(2)]
    assert model.encoded == 2  # the whole, and a window
    for corner in range(0, 100, 5):
        predictor.predict(box=np.array([corner, corner, corner + 20, corner + 30]))
    assert len(predictor._embeddings) <= KEPT + 1
    for mask, iou in (answers[1], predictor.predict(**CLICK)):
        np.testing.assert_array_equal(mask, answers[0][0])
        assert iou == answers[0][1]


@looks
def test_nothing_is_left_of_the_image_before(network, kind):
    """Of the same size, so that the windows are the same."""
    predictor = predictor_on(photo(60, 90, seed=1), network, kind)
    _, iou_before = predictor.predict(**CLICK)
    predictor.set_image(photo(60, 90, seed=2))
    mask, iou = predictor.predict(**CLICK)
    expected, expected_iou = predictor_on(photo(60, 90, seed=2), network, kind).predict(**CLICK)
    np.testing.assert_array_equal(mask, expected)
    assert iou == expected_iou != iou_before


# --- the real network ---
@pytest.mark.parametrize(("name", "kind"), [("network", MiniSamPredictor), ("network", OneLook), ("base", OneLook)])
def test_every_mix_of_prompts(request, name, kind):
    predictor = predictor_on(photo(60, 90), request.getfixturevalue(name), kind)
    some = {"points": np.array([[10, 20], [70.5, 5.25]]), "labels": np.array([1, 0])}
    box, earlier = {"box": [5, 5, 60, 50]}, {"mask_input": np.eye(60, 90, dtype=bool)}
    alone = [earlier] if kind is MiniSamPredictor else []
    for prompt in (*alone, some, box, some | box, some | earlier, box | earlier, some | box | earlier):
        mask, iou = predictor.predict(**prompt)
        assert (mask.shape, mask.dtype) == ((60, 90), bool)
        assert isinstance(iou, float)
        assert 0 <= iou <= 1
        masks, ious = predictor.predict(**prompt, multimask=True)
        assert (masks.shape, masks.dtype, ious.shape) == ((3, 60, 90), bool, (3,))
        assert (np.diff(ious) <= 0).all()
    assert predictor.class_name is None


@looks
@pytest.mark.parametrize("ious", [(torch.nan, 0.5, 0.2), (0.9, 0.5, 0.2)])
def test_a_network_that_diverged_is_refused(ious, kind):
    model = Painter(ious)
    decode, logit = model.decode, torch.nan if ious[0] == 0.9 else 0
    model.decode = lambda *given, **how: (decode(*given, **how)[0] + logit, torch.tensor([ious]))
    with pytest.raises(ValueError, match="for this prompt hold NaN or infinity, which is no prediction"):
        predictor_on(photo(60, 90), model, kind).predict(**CLICK)


@pytest.mark.parametrize("prompt", [CLICK, {"box": [5, 5, 60, 50]}], ids=["click", "box"])
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


# --- windows: what is cut, where points go, how an answer comes back ---


@given(boxes_in_images(), st.floats(1.1, 3))
def test_a_window_is_a_square_around_the_box_inside_the_image_where_it_can_be(case, margin):
    (height, width), box = case
    window = Window.around(box, margin, (height, width), 128)
    side = window.x1 - window.x0
    assert side == window.y1 - window.y0
    longer = max(box[2] - box[0], box[3] - box[1]) + 1
    # An eighth of a step of 19 % either way: no window is much larger than was asked for.
    assert longer <= side <= max(1.25 * margin * max(longer, 24) + 8, 32)
    for low, high, length, first, last in (
        (window.x0, window.x1, width, box[0], box[2]),
        (window.y0, window.y1, height, box[1], box[3]),
    ):
        assert (low >= 0 and high <= length) if side <= length else (low <= 0 and high >= length)
        assert low <= first
        assert last < high


def test_a_box_a_pixel_wider_often_gives_the_same_window():
    """Else no embedding would ever be used twice while a mask grows click by click."""
    windows = {Window.around(np.array([100, 100, 160 + k, 160]), 1.8, (400, 400), 128) for k in range(8)}
    assert len(windows) <= 3


@settings(max_examples=40, deadline=None)
@given(boxes_in_images(), st.floats(1.1, 3), st.integers(0, 10**6))
def test_points_and_boxes_go_where_the_pixels_go(case, margin, seed):
    size, box = case
    window = Window.around(box, margin, size, 64)
    pixel = (window.x1 - window.x0) / 64  # pixels of the image per pixel of the window
    # The outer corner of the first pixel is that of the window's first pixel, likewise the last.
    corners = np.array([[window.x0 - 0.5, window.y0 - 0.5], [window.x1 - 0.5, window.y1 - 0.5]])
    np.testing.assert_allclose(window.points(corners), [[-0.5, -0.5], [63.5, 63.5]], atol=1e-4)
    moved = window.box(box)
    np.testing.assert_allclose(moved[2:] - moved[:2] + 1, (box[2:] - box[:2] + 1) / pixel, rtol=1e-4)
    np.testing.assert_allclose((moved[:2] + moved[2:]) / 2, window.points((box[:2] + box[2:]) / 2), atol=1e-3)
    # A picture that holds its own coordinates: what is found at the moved point says where it came from.
    rng = np.random.default_rng(seed)
    point = rng.integers(box[:2], box[2:] + 1)
    y, x = np.mgrid[: size[0], : size[1]]
    seen = window.cut(torch.from_numpy(np.stack([x, y]).astype(np.uint8)), outside=NOTHING).float()
    column, row = np.clip(window.points(point).round(), 0, 63).astype(int)
    first = 3 * pixel + np.maximum([window.x0, window.y0], 0)
    last = np.minimum([window.x1, window.y1], size[::-1]) - 3 * pixel
    if (first <= point).all() and (point <= last).all():  # at an edge the antialiasing mixes in what lies beyond
        assert seen[:, row, column].numpy() == pytest.approx(point, abs=1 + pixel)


@settings(max_examples=30, deadline=None)
@given(boxes_in_images())
def test_what_is_cut_and_pasted_lies_where_it_was(case):
    (height, width), box = case
    window = Window.around(box, 1.4, (height, width), 128)
    x, y = torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")
    ramps = torch.stack([x, y]).to(torch.uint8)
    pasted = window.paste(window.cut(ramps, NOTHING).float(), (height, width), outside=-1.0)
    seen = (x >= window.x0) & (x < window.x1) & (y >= window.y0) & (y < window.y1)
    assert (pasted[:, ~seen] == -1).all()
    margin = 4  # of the window's edge, and the image's, where interpolation lacks a neighbour
    edges = [max(window.x0, 0), max(window.y0, 0), min(window.x1, width), min(window.y1, height)]
    inner = (x >= edges[0] + margin) & (x < edges[2] - margin) & (y >= edges[1] + margin) & (y < edges[3] - margin)
    if inner.any():
        assert (pasted - ramps)[:, inner].abs().max() < 1.1


@given(st.integers(20, 150), st.integers(20, 150))
def test_the_whole_image_keeps_its_proportions(height, width):
    window = Window.whole((height, width), 96)
    assert max(window.width, window.height) == 96
    assert abs(window.width / window.height - width / height) < 0.06 * width / height
    assert window.cut(torch.zeros(3, height, width, dtype=torch.uint8)).shape == (3, window.height, window.width)
    far = [window.width - 0.5, window.height - 0.5]
    assert window.points(np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]]))[1] == pytest.approx(far, abs=1e-3)
    whole = window.box(np.array([0, 0, width - 1, height - 1]))
    assert whole == pytest.approx(np.array([0, 0, window.width - 1, window.height - 1]), abs=1e-3)


def test_what_sticks_out_has_the_mean_colour_and_comes_back_as_background():
    image = torch.full((3, 40, 80), 9, dtype=torch.uint8)
    window = Window(0, -20, 80, 60, 80, 80)
    cut = window.cut(image)
    assert (cut[:, 20:60] == 9).all()
    assert cut[:, :20].flatten(1).float().mean(1).tolist() == [124, 116, 104]
    back = window.paste(torch.ones(2, 80, 80), (40, 80), -8.0)
    assert back.shape == (2, 40, 80)
    assert (back == 1).all()


def test_contains_counts_edges_once():
    window = Window(10, 10, 20, 20, 64, 64)
    assert window.contains(np.array([[10, 10], [19, 19], [20, 10], [9, 10]])).tolist() == [True, True, False, False]


# --- the weights that come with the project ---
def test_both_heads_come_back_and_share_the_encoder(network, tmp_path):
    classes = build("mini_sam", 21)
    classes.image_encoder.load_state_dict(network.image_encoder.state_dict())
    path, alone = tmp_path / "both.safetensors", tmp_path / "one.safetensors"
    save_mini_sam(path, network, classes, {"steps": "3"})
    save_mini_sam(alone, network)
    encoder = sum(p.numel() for p in network.image_encoder.parameters())
    assert path.stat().st_size < 12e6
    assert path.stat().st_size - alone.stat().st_size < 0.3 * 2 * encoder  # two bytes each
    for model, num_classes in ((network, 1), (classes, 21)):
        loaded = load_mini_sam(path, num_classes)
        assert not loaded.training
        for name, value in model.state_dict().items():
            expected = value.half().float() if value.is_floating_point() else value
            torch.testing.assert_close(loaded.state_dict()[name], expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"one\.safetensors does not fit MiniSAM with num_classes=21"):
        load_mini_sam(alone, num_classes=21)
    torch.nn.init.constant_(classes.mask_head[-1].bias, 1e6)
    with pytest.raises(ValueError, match=r"a weight of shape \(21,\) is not finite in half precision"):
        save_mini_sam(path, network, classes)


@torch.no_grad()
def test_norms_put_into_the_convolutions_before_them_change_no_answer():
    torch.manual_seed(0)
    model, images = build("mini_sam", 1), torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    model(images)  # in train mode: the norms have statistics of their own then
    fused, boxes = fuse_norms(copy.deepcopy(model.eval())), torch.tensor([[9.0, 8, 50, 44]] * 4)
    left = [name for name, module in fused.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert left == ["decoder.0", "mask_head.0"]  # no convolution right before them
    torch.testing.assert_close(fused(images, boxes=boxes), model(images, boxes=boxes), rtol=1e-3, atol=1e-3)


def test_missing_weights(monkeypatch, tmp_path):
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "labhelpers" / "models" / "shipped.py"))
    with pytest.raises(FileNotFoundError, match=r"mini_sam\.safetensors.* is missing .*checkpoints.mini_sam"):
        load_predictor("mini_sam")


def test_the_shipped_file_is_small_and_answers():
    assert shipped_weights("mini_sam.safetensors").stat().st_size < 12e6
    image, truth = np.full((96, 128, 3), 90, dtype=np.uint8), np.zeros((96, 128), bool)
    image[30:70, 40:90], truth[30:70, 40:90] = (220, 60, 40), True
    for name in ("mini_sam", "mini_sam_semantic"):
        predictor = load_predictor(name)
        predictor.set_image(image)
        for prompt in ({"box": np.array([40, 30, 89, 69])}, {"points": np.array([[64, 50]]), "labels": np.array([1])}):
            mask, iou = predictor.predict(**prompt)
            assert mask.shape == (96, 128)
            assert name == "mini_sam_semantic" or (mask_iou(mask, truth) > 0.7 and 0.4 < iou <= 1)
        assert (predictor.class_name in VOC_CLASSES) == (name == "mini_sam_semantic")


# --- mistakes ---


NUMBERS = "must be an array of numbers"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "no prompt"),
        ({"points": np.empty((0, 2)), "labels": np.empty(0)}, "no prompt"),
        ({"points": [], "labels": []}, "no prompt"),
        ({"points": [[1, 2]]}, "points and labels belong together"),
        ({"labels": [1]}, "points and labels belong together"),
        ({"points": [1, 2], "labels": [1]}, r"points must be \(N, 2\) and labels \(N,\), got \(2,\) and \(1,\)"),
        ({"points": [[1, 2]], "labels": [1, 0]}, r"points must be \(N, 2\) and labels \(N,\)"),
        ({"points": [[1, 2]], "labels": 1}, r"points must be \(N, 2\) and labels \(N,\)"),
        ({"points": [[90, 2]], "labels": [1]}, r"points must lie in the image of 90 x 60 pixels .* got \[90"),
        ({"points": [[1, 2], [1, -1e300]], "labels": [1, 0]}, r"points .*image.* got \[1\.0, -1e\+300\]"),
        ({"points": [[np.nan, 2]], "labels": [1]}, "points .*image"),
        ({"points": [[1, np.inf]], "labels": [1]}, "points .*image"),
        ({"points": [["1", "2"]], "labels": [1]}, f"points {NUMBERS}, got <U1"),
        ({"points": [[1, None]], "labels": [1]}, f"points {NUMBERS}, got object"),
        ({"points": [[1, 2], [3]], "labels": [1, 1]}, f"points {NUMBERS}, or lists of them"),
        ({"points": [[1, 2j]], "labels": [1]}, f"points {NUMBERS}, got complex128"),
        ({"points": np.eye(60, 2, dtype=bool), "labels": np.ones(60)}, f"points {NUMBERS}, got bool"),
        ({"points": [[1, 2]], "labels": [2]}, r"labels must be 1 \(foreground\) or 0 \(background\), got \[2\]"),
        ({"points": [[1, 2], [3, 4]], "labels": [0.7, 1.9]}, r"labels must be 1 .* got \[0\.7, 1\.9\]"),
        ({"points": [[1, 2]], "labels": [np.nan]}, r"labels must be 1 .* got \[nan\]"),
        ({"points": [[1, 2]], "labels": ["1"]}, f"labels {NUMBERS}"),
        ({"box": [1, 2, 3]}, r"box must be x0, y0, x1, y1, four numbers, got the shape \(3,\)"),
        ({"box": [[1, 2, 3, 4]] * 2}, r"four numbers, got the shape \(2, 4\); ask box by box"),
        ({"box": [30, 2, 3, 4]}, "box must be x0, y0, x1, y1 with x0 <= x1"),
        ({"box": [np.nan, 2, 3, 4]}, "box must be x0, y0, x1, y1"),
        ({"box": [1, 2, np.inf, 4]}, "box must be x0, y0, x1, y1"),
        ({"box": "1234"}, f"box {NUMBERS}"),
        ({"box": [90, 2, 95, 4]}, r"box must lie in the image of 90 x 60 pixels \(width x height\) or overlap it, got"),
        ({"box": [1, -9, 95, -0.6]}, "box must lie in the image"),
        ({"box": [1e9, 1e9, 2e9, 2e9]}, "box must lie in the image"),
        ({"mask_input": np.ones((3, 4), bool)}, r"mask_input must be bool of the image's size \(60, 90\)"),
        ({"mask_input": np.ones((60, 90))}, "mask_input must be bool of the image's size .* got float64"),
    ],
)
def test_wrong_prompts_are_named(prompt, message):
    with pytest.raises(ValueError, match=message):
        predictor_on(photo(60, 90)).predict(**prompt)
    if "box" in prompt:
        box_only = FilledBox()
        box_only.set_image(photo(60, 90))
        with pytest.raises(ValueError, match=message):
            box_only.predict(**prompt)


@pytest.mark.parametrize("kind", [list, np.float32, np.int16, torch.tensor, torch.nn.Parameter, pd.DataFrame])
def test_a_prompt_is_anything_like_arrays(kind):
    def given(values):
        if isinstance(kind, type) and issubclass(kind, np.generic):
            return np.array(values, dtype=kind)
        return kind(torch.tensor(values, dtype=torch.float64)) if kind is torch.nn.Parameter else kind(values)

    prompt = Prompt.checked(
        (60, 90),
        given([[1, 2], [3, 4]]),
        [True, 0.0],
        given([5, 6, 7, 8]) if kind is not pd.DataFrame else None,
        torch.eye(60, 90).bool(),
    )
    assert (prompt.points.tolist(), prompt.points.dtype) == ([[1, 2], [3, 4]], np.float64)
    assert (prompt.labels.tolist(), prompt.labels.dtype) == ([1, 0], np.int64)
    assert prompt.box is None or (prompt.box.tolist(), prompt.box.dtype) == ([5, 6, 7, 8], np.float64)
    assert (prompt.mask == np.eye(60, 90, dtype=bool)).all()


edges = st.one_of(st.integers(-200, 300), st.floats(-1e12, 1e12), st.floats(-3, 160))


@given(st.integers(1, 150), st.integers(1, 150), st.lists(edges, min_size=4, max_size=4))
def test_a_box_marks_those_of_its_pixels_that_the_image_has_or_is_refused(height, width, corners):
    x0, x1, y0, y1 = *sorted(corners[::2]), *sorted(corners[1::2])
    overlaps = x0 < width - 0.5 and x1 >= -0.5 and y0 < height - 0.5 and y1 >= -0.5
    predictor = FilledBox()
    predictor.set_image(photo(height, width))
    if not overlaps:
        with pytest.raises(ValueError, match=f"box must lie in the image of {width} x {height} pixels"):
            predictor.predict(box=[x0, y0, x1, y1])
        return
    y, x = np.mgrid[:height, :width]
    low_x, high_x, low_y, high_y = (
        np.rint(np.clip(v, 0, n - 1)) for v, n in ((x0, width), (x1, width), (y0, height), (y1, height))
    )
    mask, _ = predictor.predict(box=[x0, y0, x1, y1])
    np.testing.assert_array_equal(mask, (x >= low_x) & (x <= high_x) & (y >= low_y) & (y <= high_y))


@looks
@pytest.mark.parametrize(
    "image", [photo(60, 90).astype(float), photo(60, 90)[..., 0], photo(60, 90).transpose(2, 0, 1), "photo.jpg"]
)
def test_an_image_that_is_none(image, kind):
    with pytest.raises(ValueError, match=r"set_image needs a uint8 array \(H, W, 3\), RGB, got"):
        kind(Painter()).set_image(image)


def test_an_image_that_could_not_be_encoded_is_not_there(monkeypatch):
    predictor = predictor_on(photo())
    monkeypatch.setattr(predictor.model, "encode", None)
    with pytest.raises(TypeError):
        predictor.set_image(photo(seed=1))
    assert predictor.image is None
    for none in (predictor, MiniSamPredictor(Painter())):
        with pytest.raises(RuntimeError, match="no image yet: call set_image first"):
            none.predict(box=[1, 2, 3, 4])
