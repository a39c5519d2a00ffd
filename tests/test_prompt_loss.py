"""The loss of candidate masks against its formula written out with loops, its gradients, void, and what it refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labhelpers.prompting import prompt_loss, true_iou


def candidate(logits, target, weight):
    """Cross-entropy + Dice and IoU of one mask, pixel by pixel."""
    ce = total = overlap = areas = both = either = 0.0
    for z, t, w in zip(logits.flatten().tolist(), target.flatten().tolist(), weight.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        ce -= w * (t * math.log(p) + (1 - t) * math.log(1 - p))
        total += w
        overlap += w * p * t
        areas += w * (p + t)
        both += w * (z > 0 and t > 0.5)
        either += w * (z > 0 or t > 0.5)
    return ce / max(total, 1) + 1 - (2 * overlap + 1) / (areas + 1), both / max(either, 1)


def naive(logits, predicted_iou, target, weight):
    masks, errors = [], []
    for i, image in enumerate(logits):
        losses = []
        for j, mask in enumerate(image):
            loss, iou = candidate(mask, target[i], weight[i])
            losses.append(loss)
            errors.append((predicted_iou[i, j].item() - iou) ** 2)
        masks.append(min(losses) + 0.1 * sum(losses) / len(losses))
    return sum(masks) / len(masks) + 0.1 * sum(errors) / len(errors)


@st.composite
def batches(draw):
    b, m, h, w = (draw(st.integers(1, high)) for high in (3, 4, 5, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    logits = draw(st.sampled_from([0.1, 1, 4])) * torch.randn(b, m, h, w, generator=generator)
    target, weight, iou = (torch.rand(shape, generator=generator) for shape in ((b, h, w), (b, h, w), (b, m)))
    kind = draw(st.sampled_from(["soft", "binary", "empty"]))
    target = target if kind == "soft" else (target > 0.5).float() * (kind == "binary")
    weight = (weight > draw(st.sampled_from([0.0, 0.4, 1.0]))).float()  # nothing, some, everything void
    return logits, iou, target, weight


@given(batches())
@settings(max_examples=60, deadline=None)
def test_value_is_that_of_the_formula(batch):
    assert prompt_loss(*batch).item() == pytest.approx(naive(*batch), rel=1e-4, abs=1e-6)


@given(batches())
@settings(max_examples=20, deadline=None)
def test_void_pixels_change_nothing(batch):
    logits, iou, target, weight = batch
    void = weight == 0
    other = torch.where(void[:, None], -3 * logits + 1, logits)
    expected = prompt_loss(logits, iou, target, weight)
    torch.testing.assert_close(prompt_loss(other, iou, torch.where(void, 1 - target, target), weight), expected)


def scene(masks=3):
    generator = torch.Generator().manual_seed(0)
    target = torch.zeros(2, 6, 8)
    target[:, 1:4, 2:6] = 1
    logits = torch.randn(2, masks, 6, 8, generator=generator)
    logits[0, 1], logits[1, 2] = 4 * target[0] - 2, 4 * target[1] - 2  # the best candidates
    return logits.requires_grad_(), torch.rand(2, masks, generator=generator).requires_grad_(), target


def test_the_best_candidate_of_each_image_learns_most():
    logits, iou, target = scene()
    prompt_loss(logits, iou, target, torch.ones_like(target)).backward()
    # d(min + 0.1 mean) is (1 + 0.1 / 3) dl for the best and (0.1 / 3) dl for the others
    alone = logits.detach().clone().requires_grad_()
    sum(prompt_loss(alone[:, [j]], iou[:, [j]], target, torch.ones_like(target)) for j in range(3)).backward()
    share = logits.grad / alone.grad * 1.1  # alone, a candidate's loss counts 1 + 0.1
    best = torch.tensor([[False, True, False], [False, False, True]])
    torch.testing.assert_close(share[best], torch.full_like(share[best], 1 + 0.1 / 3), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(share[~best], torch.full_like(share[~best], 0.1 / 3), rtol=1e-3, atol=1e-3)


def test_predicted_iou_learns_the_true_one_and_the_masks_do_not_learn_from_it():
    logits, iou, target = scene()
    weight = torch.ones_like(target)
    truth = true_iou(logits, target, weight)
    assert not truth.requires_grad
    assert truth[0, 1] == truth[1, 2] == 1
    loss = prompt_loss(logits, iou, target, weight)
    at_logits, at_iou = torch.autograd.grad(loss, (logits, iou))
    torch.testing.assert_close(at_iou, 0.2 * (iou.detach() - truth) / iou.numel())
    again = torch.autograd.grad(prompt_loss(logits, 1 - iou.detach(), target, weight), logits)[0]
    assert torch.equal(at_logits, again)


def test_true_iou_counts_weights():
    logits = torch.tensor([[[[1.0, 1.0, -1.0, -1.0]]]])
    target, weight = torch.tensor([[[1.0, 0.0, 0.6, 0.5]]]), torch.tensor([[[2.0, 1.0, 3.0, 7.0]]])
    assert true_iou(logits, target, weight).item() == pytest.approx(2 / 6)
    assert true_iou(logits, target, 0 * weight).tolist() == [[0.0]]


def test_void_everywhere_teaches_nothing():
    logits, iou, target = scene()
    loss = prompt_loss(logits, iou, target, torch.zeros_like(target))
    loss.backward()
    torch.testing.assert_close(loss, 0.1 * iou.square().mean())
    assert not logits.grad.any()


def test_half_precision_and_bool_targets_give_the_same():
    logits, iou, target = scene()
    weight = torch.ones_like(target)
    half = (logits * 5e3).half()  # a sum over the pixels in half precision would be infinite
    found = prompt_loss(half, iou.half(), target.bool(), weight.bool())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, prompt_loss(half.float(), iou.half().float(), target, weight))
    assert found.isfinite()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 6, 8)}, r"logits must have shape \(B, M, h, w\), got \(2, 6, 8\)"),
        ({"iou": torch.zeros(2, 1)}, r"predicted_iou must have shape \(2, 3\), got \(2, 1\)"),
        ({"target": torch.zeros(2, 3, 6, 8)}, r"target must have shape \(2, 6, 8\).*got \(2, 3, 6, 8\)"),
        ({"weight": torch.zeros(2, 12, 16)}, r"weight must have shape \(2, 6, 8\).*got \(2, 12, 16\); resize it"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    logits, iou, target = scene()
    given = {"logits": logits, "iou": iou, "target": target, "weight": torch.ones_like(target)} | change
    with pytest.raises(ValueError, match=message):
        prompt_loss(*given.values())
