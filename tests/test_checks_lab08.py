"""Checks of lab 08: right answers in several styles pass, what the exercises say is what the libraries do."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import assert_hint, assert_passes
from torchvision import ops
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.roi_heads import maskrcnn_loss

from labhelpers.course import checks

CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))
bilinear = checks.bilinear.reference


def nms_by_removal(boxes, scores, threshold):
    order, kept = scores.argsort(descending=True), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[ops.box_iou(boxes[best][None], boxes[order])[0] <= threshold]
    return torch.stack(kept) if kept else torch.zeros(0, dtype=torch.int64)


def bilinear_by_grid_sample(features, x, y):
    height, width = features.shape[1:]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1).reshape(1, 1, -1, 2)
    found = F.grid_sample(features[None], grid, padding_mode="border", align_corners=True)
    return found.reshape(len(features), *x.shape)


def bilinear_by_loop(features, x, y):
    """A sum over all cells, each with its weight."""
    height, width = features.shape[1:]
    across = (1 - (x.clamp(0, width - 1)[..., None] - torch.arange(width)).abs()).clamp_min(0)
    down = (1 - (y.clamp(0, height - 1)[..., None] - torch.arange(height)).abs()).clamp_min(0)
    return torch.einsum("chw,...h,...w->c...", features, down, across)


def align_by_halves(features, box, size, scale):
    """Bins of half the size, each sampled in its middle, then averaged four by four."""
    n = 2 * size
    x0, y0, x1, y1 = (box * scale).tolist()
    x = torch.linspace(x0, x1, 2 * n + 1)[1::2] - 0.5
    y = torch.linspace(y0, y1, 2 * n + 1)[1::2] - 0.5
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return F.avg_pool2d(bilinear(features, columns, rows), 2)


def error_by_round(box, stride):
    first, last = (box[:2] / stride).round(), (box[2:] / stride).round()
    return torch.cat([first, last + 1]) * stride - box


def match_by_torchvision(iou, high=0.7, low=0.3):
    found = Matcher(high, low, allow_low_quality_matches=True)(iou)
    return torch.where(found >= 0, 1, torch.where(found == -1, 0, -1)), iou.argmax(0)


def match_by_loop(iou, high=0.7, low=0.3):
    labels = []
    for column in iou.T:
        best = column.max()
        labels.append(1 if best >= high else 0 if best < low else -1)
    labels = torch.tensor(labels)
    for row in iou:
        labels[row == row.max()] = 1
    return labels, iou.max(0).indices


def match_the_last_of_equals(iou, high=0.7, low=0.3):
    labels, _ = match_by_loop(iou, high, low)
    return labels, len(iou) - 1 - iou.flip(0).argmax(0)


def match_with_low_at_the_end(iou, high=0.7, low=0.3):
    best, index = iou.max(0)
    labels = torch.where((best >= high) | (iou == iou.amax(1, keepdim=True)).any(0), 1, -1)
    labels[best < low] = 0
    return labels, index


def match_objects_without_a_positive_anchor(iou, high=0.7, low=0.3):
    best, index = iou.max(0)
    labels = torch.where(best >= high, 1, torch.where(best < low, 0, -1))
    for number, row in enumerate(iou):
        if not (labels[index == number] == 1).any():
            labels[row == row.max()] = 1
    return labels, index


def encode_by_columns(boxes, anchors):
    x1, y1, x2, y2 = boxes.unbind(1)
    a1, b1, a2, b2 = anchors.unbind(1)
    w, h = a2 - a1, b2 - b1
    code = (x1 + x2 - a1 - a2) / 2 / w, (y1 + y2 - b1 - b2) / 2 / h, ((x2 - x1) / w).log(), ((y2 - y1) / h).log()
    return torch.stack(code, dim=1)


def decode_by_columns(codes, anchors):
    x1, y1, x2, y2 = anchors.unbind(1)
    tx, ty, tw, th = codes.unbind(1)
    limit = torch.tensor(1000 / 16).log()
    w, h = (x2 - x1) * tw.minimum(limit).exp(), (y2 - y1) * th.minimum(limit).exp()
    x, y = x1 + (x2 - x1) * (0.5 + tx), y1 + (y2 - y1) * (0.5 + ty)
    return torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], dim=1)


def propose_by_torchvision(scores, codes, anchors, size, count, threshold):
    scores, best = scores.sort(descending=True)
    scores, best = scores[:count], best[:count]
    boxes = ops.clip_boxes_to_image(CODER.decode_single(codes[best], anchors[best]), size)
    kept = ops.nms(boxes, scores, threshold)
    return boxes[kept], scores[kept]


def paste_by_loop(small, box, size):
    """One pixel after the other, in numbers of Python."""
    out, (x1, y1, x2, y2) = torch.zeros(size, dtype=torch.bool), box.tolist()
    for row in range(size[0]):
        for column in range(size[1]):
            x, y = (column + 0.5 - x1) / (x2 - x1), (row + 0.5 - y1) / (y2 - y1)
            if 0 <= x < 1 and 0 <= y < 1:
                cells = torch.tensor([x, y]) * len(small) - 0.5
                out[row, column] = bilinear(small[None], *cells)[0] >= 0.5
    return out


def merge_from_behind(semantic, objects):
    """Which objects stay is decided first; then they are painted, the last first."""
    free, kept = torch.ones(semantic.shape, dtype=torch.bool), []
    for number, mask in enumerate(objects.masks):
        if 2 * (mask & free).sum() > mask.sum():
            kept.append(number)
            free &= ~mask
    labels, ids = torch.where(semantic > 0, 255, semantic), torch.zeros(semantic.shape, dtype=torch.int32)
    for number in reversed(kept):
        labels[objects.masks[number]] = objects.labels[number].to(torch.uint8)
        ids[objects.masks[number]] = number + 1
    return labels, ids


def loss_by_gather(logits, labels, targets):
    own = logits.gather(1, labels[:, None, None, None].expand(-1, 1, *logits.shape[2:])).squeeze(1)
    terms = F.softplus(own) - targets * own
    return terms.mean() if len(labels) else logits.sum() * 0


def hits_by_sorting(iou, threshold):
    taken, hits = set(), []
    for row in iou:
        fitting = [k for k in np.argsort(-row, kind="stable") if row[k] >= threshold and k not in taken]
        hits.append(bool(fitting))
        taken.update(fitting[:1])
    return np.array(hits, dtype=bool)


def hits_without_a_guard(iou, threshold):
    left, hits = iou.copy(), []
    for row in left:
        best = row.argmax()
        hits.append(row[best] >= threshold)
        if hits[-1]:
            left[:, best] = -1
    return np.array(hits)


def precision_by_loop(scores, hits, num_targets):
    if not num_targets:
        return float("nan")
    points, found = [], 0
    for shown, index in enumerate(np.argsort(-scores, kind="stable"), start=1):
        found += bool(hits[index])
        points.append((found / num_targets, found / shown))
    best = [max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
    return float(np.mean(best))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("nms", nms_by_removal),
        ("nms", ops.nms),
        ("bilinear", bilinear_by_grid_sample),
        ("bilinear", bilinear_by_loop),
        ("roi_align", align_by_halves),
        ("roi_pool_error", error_by_round),
        ("match_anchors", match_by_torchvision),
        ("match_anchors", match_by_loop),
        ("match_anchors", match_the_last_of_equals),
        ("encode_boxes", encode_by_columns),
        ("encode_boxes", CODER.encode_single),
        ("decode_boxes", decode_by_columns),
        ("decode_boxes", CODER.decode_single),
        ("propose", propose_by_torchvision),
        ("paste_mask", paste_by_loop),
        ("merge_panoptic", merge_from_behind),
        ("mask_loss", loss_by_gather),
        ("match_detections", hits_by_sorting),
        ("average_precision", precision_by_loop),
        ("average_precision", lambda *given: np.float64(precision_by_loop(*given))),
    ],
)
def test_right_answer_passes(name, answer):
    assert_passes(name, answer)


@pytest.mark.parametrize(
    ("name", "answer", "words"),
    [
        ("nms", lambda *given: nms_by_removal(*given).tolist(), ("a value of type list, expected a torch tensor",)),
        (
            "nms",
            lambda *given: nms_by_removal(*given).float(),
            ("right values, but its dtype is torch.float32", "int64"),
        ),
        ("nms", lambda *given: torch.tensor(nms_by_removal(*given).tolist()), ("an empty list", "dtype=torch.int64")),
        (
            "mask_loss",
            lambda x, k, y: F.binary_cross_entropy_with_logits(x[:, k], y),
            ("not of one shape", "`logits[torch.arange(len(labels)), labels]`"),
        ),
        (
            "mask_loss",
            lambda x, k, y: F.binary_cross_entropy(x[torch.arange(len(k)), k], y),
            ("takes probabilities", "with_logits"),
        ),
        (
            "match_detections",
            hits_without_a_guard,
            ("an image without targets has no best one",),
        ),
        ("match_anchors", lambda iou, high=0.7, low=0.3: iou.argmax(0), ("expected two tensors",)),
        ("match_anchors", match_with_low_at_the_end, ("make them positive last",)),
        ("match_anchors", match_objects_without_a_positive_anchor, ("an object's best anchor fits another",)),
        (
            "mask_loss",
            lambda x, k, y: (
                F.binary_cross_entropy_with_logits(x[torch.arange(len(k)), k], y) if len(k) else torch.zeros(())
            ),
            ("no gradient",),
        ),
        ("propose", lambda *given: propose_by_torchvision(*given)[0], ("expected two tensors",)),
        (
            "propose",
            lambda s, c, a, size, n, t: propose_by_torchvision(s[(k := s.topk(n).indices)], c[k], a[k], size, n, t),
            ("a level may have fewer anchors than `count`",),
        ),
        ("merge_panoptic", lambda *given: merge_from_behind(*given)[0], ("expected two maps",)),
        (
            "bilinear",
            lambda f, x, y: f[:, y.floor().long() + 1, x.floor().long() + 1],
            ("right and below the last cell there is none",),
        ),
        ("bilinear", lambda f, x, y: f[:, y, x], ("an index is whole",)),
        (
            "average_precision",
            lambda s, h, n: h[s.argsort()[::-1]].cumsum()[
                np.searchsorted(h.cumsum() / max(n, 1), np.linspace(0, 1, 101))
            ],
            ("some recalls are never reached",),
        ),
    ],
)
def test_wrong_answer_of_another_make_gets_its_hint(name, answer, words):
    assert_hint(name, answer, *words)


seeds = st.integers(0, 2**31)


def random_boxes(generator: torch.Generator, count: int) -> torch.Tensor:
    low = 60 * torch.rand(count, 2, generator=generator)
    return torch.cat([low, low + 4 + 36 * torch.rand(count, 2, generator=generator)], dim=1)


@given(seeds, st.integers(0, 30), st.sampled_from([0.2, 0.5, 0.7]))
@settings(max_examples=25, deadline=None)
def test_suppression_is_torchvisions(seed, count, threshold):
    generator = torch.Generator().manual_seed(seed)
    boxes, scores = random_boxes(generator, count), torch.randperm(count, generator=generator) / 100
    assert torch.equal(checks.nms.reference(boxes, scores, threshold), ops.nms(boxes, scores, threshold))


@given(seeds, st.integers(1, 6), st.integers(1, 40), st.sampled_from([(0.7, 0.3), (0.5, 0.5)]))
@settings(max_examples=25, deadline=None)
def test_matching_is_torchvisions(seed, objects, anchors, thresholds):
    generator = torch.Generator().manual_seed(seed)
    iou = ops.box_iou(random_boxes(generator, objects), random_boxes(generator, anchors))
    for mine, theirs in zip(
        checks.match_anchors.reference(iou, *thresholds), match_by_torchvision(iou, *thresholds), strict=True
    ):
        assert torch.equal(mine, theirs)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_coding_is_torchvisions_and_is_undone(seed):
    generator = torch.Generator().manual_seed(seed)
    boxes, anchors = random_boxes(generator, 9), random_boxes(generator, 9)
    code = checks.encode_boxes.reference(boxes, anchors)
    torch.testing.assert_close(code, CODER.encode_single(boxes, anchors))
    torch.testing.assert_close(checks.decode_boxes.reference(code, anchors), boxes, atol=1e-3, rtol=0)


def test_mask_loss_is_torchvisions_on_its_targets():
    logits, labels = torch.randn(3, 4, 28, 28), torch.tensor([1, 3, 2])
    masks, boxes = torch.rand(3, 50, 40) < 0.5, random_boxes(torch.Generator().manual_seed(0), 3) / 3
    theirs = maskrcnn_loss(logits, [boxes], [masks], [labels], [torch.arange(3)])
    targets = ops.roi_align(masks[:, None].float(), list(boxes[:, None]), 28)[:, 0]  # not aligned, as torchvision does
    torch.testing.assert_close(checks.mask_loss.reference(logits, labels, targets), theirs)


def test_pooling_error_is_where_torchvision_reads():
    """One bin of RoI Pool is the greatest cell of its window: raise one cell after the other and see which count."""
    box, stride = torch.tensor([13.0, 22, 90, 77]), 8
    read = torch.zeros(12, 16, dtype=torch.bool)
    for cell in range(read.numel()):
        features = torch.zeros(read.numel())
        features[cell] = 1
        pooled = ops.roi_pool(features.reshape(1, 1, 12, 16), [box[None]], 1, 1 / stride)
        read.view(-1)[cell] = bool(pooled.item())
    rows, columns = read.nonzero(as_tuple=True)
    window = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) * stride
    assert torch.equal(checks.roi_pool_error.reference(box, stride), window - box)


@given(seeds, st.integers(1, 12), st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_average_precision_of_greedy_matches_is_pycocotools(seed, objects, found):
    """One image of boxes: our hits, averaged, are COCO's AP at IoU .5."""
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    generator = torch.Generator().manual_seed(seed)
    targets, boxes = random_boxes(generator, objects), random_boxes(generator, found)
    near = min(objects, found)
    boxes[:near] = targets[:near] + 4 * torch.rand(near, 4, generator=generator)
    scores = torch.randperm(found, generator=generator).numpy() / 100
    order = np.argsort(-scores)
    iou = ops.box_iou(boxes[order], targets).double().numpy()
    hits = checks.match_detections.reference(iou, 0.5)
    mine = checks.average_precision.reference(scores[order], hits, objects)

    def rows(of, **more):
        sides = torch.cat([of[:, :2], of[:, 2:] - of[:, :2]], dim=1).tolist()
        return [
            {"id": k + 1, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            | {name: values[k] for name, values in more.items()}
            for k, box in enumerate(sides)
        ]

    truth = coco.COCO()
    truth.dataset = {"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": rows(targets), "info": {}}
    truth.createIndex()
    evaluated = COCOeval(truth, truth.loadRes(rows(boxes, score=scores.tolist())), "bbox")
    evaluated.params.iouThrs = np.array([0.5])
    evaluated.evaluate()
    evaluated.accumulate()
    assert math.isclose(mine, evaluated.eval["precision"][0, :, 0, 0, 2].mean(), abs_tol=1e-6)
