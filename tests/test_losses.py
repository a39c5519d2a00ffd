"""Losses against formulas written out with one-hot targets, their gradients, void, and sums over parts of a batch."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from training_toys import own_ce

from labhelpers.training.losses import LOSSES, build_loss, cross_entropy, dice, exponential_cross_entropy, focal


def naive(name: str, logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The definitions, one-hot and slow."""
    k = logits.shape[1]
    valid = (target != 255)[:, None].double()
    one_hot = F.one_hot(torch.where(target == 255, 0, target).long(), k).movedim(-1, 1) * valid
    p, log_p = logits.softmax(1), logits.log_softmax(1)
    w = weights.double()[None, :, None, None]
    pixels = valid.sum().clamp_min(1)
    if name == "weighted_ce":
        return -(w * one_hot * log_p).sum() / (w * one_hot).sum().clamp_min(1e-9)
    if name == "bce":
        log_not = torch.stack([log_p[:, [j for j in range(k) if j != i]].logsumexp(1) for i in range(k)], 1)
        return -(one_hot * log_p + (valid - one_hot) * log_not).sum() / k / pixels
    if name == "dice":
        present = one_hot.sum((0, 2, 3)) > 0
        score = (2 * (p * one_hot).sum((0, 2, 3)) + 1) / ((p * valid).sum((0, 2, 3)) + one_hot.sum((0, 2, 3)) + 1)
        return (1 - score)[present].mean() if present.any() else logits.sum() * 0
    factor = {"ce": 1, "focal": 0.25 * (1 - p) ** 2, "weighted_focal": w * (1 - p) ** 2, "exp_ce": (1 - p).exp()}[name]
    return -(factor * one_hot * log_p).sum() / pixels


@st.composite
def batches(draw):
    b, k, h, w = (draw(st.integers(low, high)) for low, high in ((1, 3), (2, 6), (1, 7), (1, 7)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    logits = torch.randn(b, k, h, w, generator=generator, dtype=torch.float64) * draw(st.sampled_from([0.1, 1, 10]))
    used = draw(st.integers(1, k))  # classes beyond are absent
    target = torch.randint(0, used, (b, h, w), generator=generator, dtype=torch.uint8)
    target[torch.rand(b, h, w, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 255
    weights = torch.rand(k, generator=generator) + 0.1
    return logits, target, weights


def same(loss, other, logits: torch.Tensor) -> None:
    """Two functions of the logits have the same value and gradient."""
    found = []
    for function in (loss, other):
        x = logits.clone().requires_grad_()
        value = function(x)
        found.append((value.detach(), *torch.autograd.grad(value, x)))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(batches(), st.sampled_from(LOSSES))
def test_value_and_gradient_equal_the_one_hot_formula(batch, name):
    logits, target, weights = batch
    loss = build_loss(name, weights if name.startswith("weighted") else None)
    same(lambda x: loss(x, target), lambda x: naive(name, x, target, weights), logits)


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("ce + 0.5*dice+2 * focal", ((1, cross_entropy), (0.5, dice), (2, focal))),
        ("exp_ce+.5*dice", ((1, exponential_cross_entropy), (0.5, dice))),
    ],
)
def test_weighted_sum_is_the_sum_of_its_terms(name, terms):
    logits, target = torch.randn(2, 4, 8, 8), torch.randint(0, 4, (2, 8, 8))
    expected = sum(weight * loss(logits, target) for weight, loss in terms)
    torch.testing.assert_close(build_loss(name)(logits, target), expected)


def test_a_sum_computes_one_log_softmax(monkeypatch):
    calls = []
    original = F.log_softmax
    monkeypatch.setattr(F, "log_softmax", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    build_loss("ce+dice+focal")(torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8))
    assert len(calls) == 1


def test_binary_cross_entropy_where_the_softmax_rounds_to_one():
    """1 - p of a wrong class that is sure: the formula with p itself would be -log 0."""
    logits = torch.tensor([90.0, 0.0, -3.0]).reshape(1, 3, 1, 1).requires_grad_()
    loss = build_loss("bce")(logits, torch.tensor([[[1]]]))
    assert loss.item() == pytest.approx((90 + 90 - math.log1p(math.exp(-3))) / 3)
    (gradient,) = torch.autograd.grad(loss, logits)
    p = math.exp(-3) / (1 + math.exp(-3))  # of class 2, had class 0 not been
    assert gradient.flatten().tolist() == pytest.approx([2 / 3, -(1 + 1 - p) / 3, -p / 3], abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(batches(), st.sampled_from([*LOSSES, "ce+2*focal"]))
def test_parts_of_a_batch_add_up_to_the_batch(batch, name):
    """With the whole batch's total, and as plain sums and totals of single images (Dice: by share of pixels)."""
    logits, target, weights = batch
    loss = build_loss(name, weights if name.startswith("weighted") else None)
    total = loss.total(target)
    items = [(x[None], t[None]) for x, t in zip(logits, target, strict=True)]
    torch.testing.assert_close(sum(loss.total(t) for _, t in items), total, rtol=1e-6, atol=0)
    whole = loss(logits, target)
    if name == "dice":
        whole = (sum(loss(x, t) * loss.total(t).double() for x, t in items) / total.clamp_min(1)).squeeze()
    torch.testing.assert_close(sum(loss(x, t, total) for x, t in items), whole, rtol=1e-6, atol=1e-9)
    summed = sum(loss.parts(x, t, torch.ones_like(total)) for x, t in items)
    torch.testing.assert_close((summed / total.clamp_min(1e-9)).sum(), whole, rtol=1e-5, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("loss", [partial(focal, alpha=1.0, gamma=0.0), partial(exponential_cross_entropy, beta=0.0)])
def test_focal_and_exponential_without_their_factor_are_cross_entropy(loss):
    logits, target = torch.randn(2, 5, 9, 7, requires_grad=True), torch.randint(0, 5, (2, 9, 7))
    (loss(logits, target) - cross_entropy(logits, target)).backward()
    assert logits.grad.abs().max() < 1e-7


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_exponential_of_another_beta(beta):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 2, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (2, 3, 2), generator=generator)
    target[0, :2] = 255

    def definition(x):
        log_p = -F.cross_entropy(x, target, ignore_index=255, reduction="none")[target != 255]
        return -((beta * (1 - log_p.exp())).exp() * log_p).mean()

    same(lambda x: exponential_cross_entropy(x, target, beta), definition, logits)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite(name):
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).repeat(1, 1, 4, 4).requires_grad_()
    loss = build_loss(name, [1.0, 2.0, 3.0] if name.startswith("weighted") else None)
    value = loss(logits, torch.arange(16).view(1, 4, 4) % 3)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("name", ["ce", "dice", "focal", "exp_ce"])
def test_bf16_logits_under_autocast_are_summed_in_float32(name):
    logits = torch.randn(2, 4, 32, 32).bfloat16()
    target = torch.randint(0, 4, (2, 32, 32), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        value = build_loss(name)(logits.requires_grad_(), target)
    value.backward()
    assert value.dtype == torch.float32
    assert logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(value, build_loss(name)(logits.float(), target), rtol=1e-6, atol=0)


PREDICTED, TARGET = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)
OTHER_SIZE = torch.zeros(1, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: build_loss("ce+lovasz"), r"unknown loss 'lovasz'.*known: ce, weighted_ce, bce, dice, focal"),
        (lambda: build_loss("weighted_ce"), "needs class_weights"),
        (lambda: build_loss("ce", [1.0, 2.0]), "uses none"),
        (lambda: build_loss("weighted_ce", [1.0, math.nan]), "finite"),
        (lambda: build_loss("weighted_ce", [1.0, -1.0]), "finite numbers >= 0"),
        (lambda: build_loss(own_ce, [1.0, 2.0, 3.0]), "own_ce is not told of them"),
        (lambda: cross_entropy(PREDICTED, OTHER_SIZE), r"\(1, 3, 4, 4\).*\(1, 8, 8\)"),
        (lambda: build_loss(own_ce)(PREDICTED, OTHER_SIZE), r"\(1, 3, 4, 4\).*\(1, 8, 8\)"),
        (lambda: build_loss(own_ce)({"out": PREDICTED}, TARGET), r"must be tensors, got dict and Tensor: .*\['out'\]"),
        (lambda: dice(PREDICTED, TARGET[:, None]), r"\(1, 3, 4, 4\).*\(1, 1, 4, 4\).*target\[:, 0\]"),
        (lambda: dice(PREDICTED, TARGET + 0.5), "target must hold integer labels, got torch.float32"),
        (lambda: build_loss("ce").parts(PREDICTED, TARGET.double(), torch.ones(1)), "got torch.float64"),
        (lambda: build_loss("weighted_ce", [1.0, 2.0])(PREDICTED, TARGET), "holds 2 numbers, and there are K = 3 cl"),
        (lambda: build_loss("ce+weighted_focal", [1.0] * 4)(PREDICTED, TARGET), "holds 4 numbers, and .* K = 3"),
        (lambda: focal(PREDICTED, TARGET, alpha=[1.0] * 4), "holds 4 numbers, and .* K = 3"),
        (lambda: focal(PREDICTED, TARGET, gamma=0.5), "gamma=0.5"),
        (lambda: exponential_cross_entropy(PREDICTED, TARGET, beta=-0.5), "beta=-0.5: must be a number >= 0"),
        (lambda: exponential_cross_entropy(PREDICTED, TARGET, beta=math.nan), "beta=nan: must be a number >= 0"),
        (lambda: exponential_cross_entropy(PREDICTED, TARGET, beta=math.inf), "beta=inf: must be a number >= 0"),
    ],
)
def test_what_does_not_fit_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


@pytest.mark.parametrize(
    "loss", [*(build_loss(x, [1.0] * 3 if "weighted" in x else None) for x in LOSSES), build_loss(own_ce)]
)
@pytest.mark.parametrize(
    ("label", "dtype"), [(3, torch.uint8), (254, torch.uint8), (-1, torch.int64), (1000, torch.int32)]
)
def test_a_label_that_is_no_class_is_named(loss, label, dtype):
    target = TARGET.to(dtype, copy=True)
    target[0, :2] = 255
    loss(PREDICTED, target)
    target[0, 3, 1] = label
    with pytest.raises(ValueError, match=rf"holds the label {label}, .* K = 3 classes 0\.\.2 nor ignore_index 255"):
        loss(PREDICTED, target)


# --- a loss of one's own -------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(batches())
def test_own_mean_over_pixels_is_cross_entropy_whole_and_in_parts(batch):
    logits, target, _ = batch
    loss = build_loss(own_ce)
    total = loss.total(target)
    same(lambda x: loss(x, target), lambda x: cross_entropy(x, target), logits)
    same(
        lambda x: sum(loss(a[None], b[None], total) for a, b in zip(x, target, strict=True)),
        lambda x: cross_entropy(x, target),
        logits,
    )


def test_own_loss_sees_float32_logits_and_int64_target_and_is_not_asked_about_void():
    seen = []

    def loss(logits, target):
        seen.append((logits.dtype, target.dtype, torch.is_autocast_enabled("cpu"), target.unique().tolist()))
        return logits.mean()

    logits = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    target = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        void = build_loss(loss)(logits, target)
        target[0, 0, 0] = 2
        build_loss(loss)(logits, target)
    assert seen == [(torch.float32, torch.int64, False, [2, 255])]
    void.backward()
    assert void == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda x, y: F.cross_entropy(x, y, reduction="none"), r"a tensor of shape \(1, 4, 4\)"),
        (lambda x, y: x.mean().item(), "a float"),
        (lambda x, y: x.detach().mean(), "a tensor without a gradient"),
        (lambda x, y: None, "a NoneType"),
    ],
)
def test_own_loss_that_returns_no_scalar_with_gradient_is_named(function, found):
    function.__name__ = "hinge"
    for own in (function, partial(function)):
        with pytest.raises(ValueError, match=f"loss function hinge returned {found}; it must return a scalar"):
            build_loss(own)(PREDICTED.clone().requires_grad_(), TARGET)


def test_own_loss_without_gradient_is_fine_where_none_is_wanted():
    torch.testing.assert_close(build_loss(own_ce)(PREDICTED, TARGET), cross_entropy(PREDICTED, TARGET))
