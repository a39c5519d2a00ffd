"""The band around true edges, against its definition."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labhelpers.evaluation import boundary_counts, boundary_iou, confusion_matrix, edge_distance, scores
from labhelpers.evaluation.boundary import band_matrices, band_scores


@st.composite
def label_maps(draw):
    """Blocks of labels, so that there are insides and edges, with some void."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    block, rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    labels = rng.choice([0, 1, 2, 255], (rows, columns)).repeat(block, 0).repeat(block, 1)
    return torch.from_numpy(labels.astype(np.uint8))


def distance_by_definition(labels: np.ndarray, limit: int) -> np.ndarray:
    distance = np.full(labels.shape, limit + 1)
    for y, x in np.ndindex(labels.shape):
        for d in range(limit, 0, -1):
            square = labels[max(0, y - d) : y + d + 1, max(0, x - d) : x + d + 1]
            if (square != labels[y, x]).any():
                distance[y, x] = d
    return distance


@settings(max_examples=60, deadline=None)
@given(label_maps(), st.integers(1, 6))
@example(torch.tensor([[0] * 6 + [255] * 2 + [3] * 6], dtype=torch.uint8), 2)  # both sides of a rim
def test_distance_follows_its_definition(labels, limit):
    distance = edge_distance(labels, limit)
    np.testing.assert_array_equal(distance, distance_by_definition(labels.numpy(), limit))
    for width in range(1, limit + 1):
        assert torch.equal(edge_distance(labels, width) <= width, distance <= width)
    assert torch.equal(edge_distance(torch.stack([labels, labels.flip(0)]), limit)[1].flip(0), distance)


@settings(max_examples=40, deadline=None)
@given(st.lists(label_maps(), min_size=1, max_size=3), st.integers(0, 1000))
@example([torch.zeros(8, 8, dtype=torch.uint8)], 0)  # no edge, no score
def test_curve_equals_masking_by_hand(targets, seed):
    rng = torch.Generator().manual_seed(seed)
    pairs = [(torch.randint(0, 3, t.shape, generator=rng, dtype=torch.uint8), t) for t in targets]
    mean_iou, foreground = band_scores((1, 3), sum(band_matrices(*pair, 3, (1, 3)) for pair in pairs).numpy())
    for width in (1, 3):
        inside = [(edge_distance(target, width) <= width) & (target != 255) for _, target in pairs]
        prediction = torch.cat([p[band] for (p, _), band in zip(pairs, inside, strict=True)])
        target = torch.cat([t[band] for (_, t), band in zip(pairs, inside, strict=True)])
        expected = scores(confusion_matrix(prediction, target, 3).numpy()).mean_iou
        either, both = (prediction > 0) | (target > 0), (prediction > 0) & (target > 0)
        np.testing.assert_allclose(mean_iou[width], expected)
        np.testing.assert_allclose(foreground[width], both.sum() / either.sum() if either.any() else np.nan)


@pytest.mark.parametrize("width", [0, 255])
def test_bad_width(width):
    with pytest.raises(ValueError, match="1 to 254 pixels"):
        edge_distance(torch.zeros(4, 4, dtype=torch.uint8), width)


# --- Boundary IoU ---


def boundary_by_definition(labels: np.ndarray, label: int, d: int) -> np.ndarray:
    """The pixels of a mask that vanish when it is eroded d times by 3x3; it ends where the picture ends."""
    mask = labels == label
    inside = np.pad(mask, d)
    return mask & ~np.lib.stride_tricks.sliding_window_view(inside, (2 * d + 1, 2 * d + 1)).all((2, 3))


@settings(max_examples=60, deadline=None)
@given(label_maps(), st.integers(0, 2**32 - 1))
@example(torch.full((8, 8), 255, dtype=torch.uint8), 0)  # nothing, undefined
def test_boundary_iou_follows_its_definition(target, seed):
    rng = torch.Generator().manual_seed(seed)
    big = target.repeat_interleave(9, 0).repeat_interleave(9, 1)  # wide enough for bands of more than one pixel
    prediction = torch.randint(0, 3, target.shape, generator=rng, dtype=torch.uint8)
    prediction = prediction.repeat_interleave(9, 0).repeat_interleave(9, 1)
    counts = boundary_counts(prediction, big, 3)
    d = max(1, round(0.02 * float(np.hypot(*big.shape))))
    void = big.numpy() == 255
    seen = np.where(void, 255, prediction.numpy())
    ious = []
    for label in range(3):
        true, predicted = (boundary_by_definition(labels, label, d) for labels in (big.numpy(), seen))
        assert counts[:, label].tolist() == [true.sum(), predicted.sum(), (true & predicted).sum()]
        if (true | predicted).any():
            ious.append((true & predicted).sum() / (true | predicted).sum())
    assert boundary_iou(counts.numpy()) == pytest.approx(np.mean(ious) if ious else np.nan, nan_ok=True)
    if not void.all():
        perfect = boundary_counts(torch.where(big == 255, 1, big), big, 3)
        assert boundary_iou(perfect.numpy()) == 1
