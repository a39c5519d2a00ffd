"""Checks of lab 04's two classes: binary cross-entropy on the softmax, and the scores of class 1."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from labhelpers.course.checks import references
from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, exercise
from labhelpers.course.checks.losses import check_void_alone, run_loss
from labhelpers.course.checks.networks import tolerance

_ERRORS = {
    "leaf Variable that requires grad": "it changes the logits in place: use an operation that returns a new tensor.",
    "Can't call numpy()": "NumPy knows no gradients: take torch's functions.",
    "255 is out of bounds": "void (255) is used as a class index: leave void pixels out first, or replace them and "
    "multiply by a mask.",
    "Class values must be smaller than num_classes": "void (255) goes into one_hot as if it were a class: replace it "
    "first, and leave those pixels out of the mean.",
    "all elements of target should be between 0 and 1": "the target is not one-hot: map k of y is 1 where the "
    "target is k, and 0 elsewhere; void is left out.",
    "Using a target size": "the target is not one-hot: it needs a map for each class, as the logits have.",
    "all elements of input should be between 0 and 1": "binary_cross_entropy takes probabilities: the softmax of the "
    "logits.",
}


@exercise("binary_cross_entropy", references.binary_cross_entropy)
def binary_cross_entropy(check: Check, answer) -> None:
    """Two and three maps, uneven void, another void, values and gradients; very sure logits; a batch of void alone."""
    for k, settings in ((3, {}), (2, {}), (3, {"ignore_index": 1})):
        logits = (2 * torch.randn(2, k, 3, 4)).requires_grad_()
        target = torch.randint(0, k, (2, 3, 4))
        if not settings:
            target[0, :2], target[1, 2, 1:] = 255, 255
        words = f"the loss of {k} maps" + "".join(f" for {name}={value}" for name, value in settings.items())
        found, gradient = run_loss(check, answer, logits, target, _ERRORS, **settings)
        expected = references.binary_cross_entropy(logits, target, **settings)
        check.equal(found, expected, words, _loss_mistakes(logits.detach(), target, **settings), tolerance(expected))
        lost = "no gradient comes back: is there an argmax, a detach or an `.item()`? The logits must learn from it."
        check.that(gradient is not None, lost)
        right = torch.autograd.grad(expected, logits)[0]
        what = f"the gradient of {words} (is a part of it detached?)"
        check.equal(gradient, right, what, (), tolerance(right))

    sure = torch.tensor([[100.0, -100.0], [-100.0, 100.0]])[..., None, None].expand(2, 2, 2, 2).requires_grad_()
    remedy = "take log_softmax for the logarithms, or keep p from 0 and 1 (binary_cross_entropy and clamp do)."
    for labels, case in ((0, "right and wrong"), (1, "wrong and right")):
        found, gradient = run_loss(check, answer, sure, torch.full((2, 2, 2), labels), _ERRORS)
        extreme = f"for logits of 100 and -100, {case}, softmax gives exactly 0 and 1"
        check.that(bool(found.isfinite()), f"{extreme}, and the loss {found.item():g}: {remedy}")
        check.that(bool(gradient.isfinite().all()), f"{extreme}, and the gradient is not finite: {remedy}")

    check_void_alone(check, answer, logits, target, _ERRORS)


def _loss_mistakes(logits: Tensor, target: Tensor, ignore_index: int = 255) -> Iterator[tuple[Tensor, str]]:
    """What known mistakes give, computed only when asked for, and their hints."""
    k = logits.shape[1]
    wrong = partial(_binary, logits, target, ignore_index)
    right = wrong()
    yield -right, "the sign is wrong: logarithms of probabilities are negative, the loss is minus their mean."
    yield wrong(over="sum"), "it is the sum: take the mean over valid pixels and maps."
    pixels = "it is summed over the maps: take the mean over them, too, as binary_cross_entropy does."
    yield wrong(over="pixels"), pixels
    yield wrong(over="all"), "void pixels are counted in the mean, as zeros: divide by the number of valid ones."
    yield wrong(over="images"), "it is averaged within each image first: divide once, by the valid pixels of the batch."
    for over in ("valid", "all"):
        yield wrong(void=0, over=over), "void pixels are counted as background: leave them out."
        yield wrong(void=k - 1, over=over), "void pixels are counted as the last class: leave them out."
        yield wrong(void=None, over=over), "void pixels are counted as no class at all: leave them out."
    both = "-(y log p + (1 - y) log(1 - p)), a term for what is the class and one for what is not"
    cross = functional.cross_entropy(logits, target, ignore_index=ignore_index)
    yield cross, f"this is cross-entropy, which is the same for two maps only: {both}."
    for over in ("valid", "pixels"):
        yield wrong(negative=False, over=over), f"(1 - y) log(1 - p) is missing: {both}."
        yield wrong(positive=False, over=over), f"y log p is missing: {both}."
    yield wrong(activation=torch.sigmoid), "it uses sigmoid (is it ..._with_logits?): p is the softmax over the maps."
    for axis in (0, 2, 3):
        over_axis = partial(torch.softmax, dim=axis)
        yield wrong(activation=over_axis), "the softmax runs over the wrong axis: over the maps, dim=1 of (B, K, H, W)."
    yield wrong(activation=lambda x: x.softmax(1).softmax(1)), "softmax is taken twice: logits go in, once."
    yield wrong(activation=lambda x: x.softmax(1).sigmoid()), "there is a sigmoid after the softmax: p is the softmax."
    one_hot = "the target is not one-hot: map k of y is 1 where the target is k (one_hot, movedim)."
    numbers = torch.arange(k, dtype=torch.float32)[:, None, None]
    yield wrong(labels=lambda y: (y * numbers).sum(1, keepdim=True).expand_as(y)), one_hot
    yield wrong(labels=lambda y: y[:, 1:2].expand_as(y)), one_hot
    yield wrong(labels=lambda y: y.flip(1)), "the maps of the target are in the wrong order: y[:, k] is target == k."
    yield wrong(labels=lambda y: 1 - y), "y is turned around: y is 1 for the class itself."
    yield wrong(only=1), "only map 1 is compared: each of the K maps has its own term."
    yield wrong(only=0), "only map 0 is compared: each of the K maps has its own term."
    if ignore_index != 255:
        yield _binary(logits, target, 255), "ignore_index is not used: is 255 written by hand?"


def _binary(
    logits: Tensor,
    target: Tensor,
    ignore_index: int,
    *,
    activation: Callable[[Tensor], Tensor] = lambda x: x.softmax(1),
    labels: Callable[[Tensor], Tensor] = lambda y: y,
    positive: bool = True,
    negative: bool = True,
    void: int | None = -1,
    only: int | None = None,
    over: str = "valid",
) -> Tensor:
    """The loss with one thing wrong in it, to recognise the mistake by its number. ``void`` -1 leaves void out, None
    counts it as no class."""
    p = activation(logits)
    counted = torch.ones_like(target, dtype=torch.bool) if void != -1 else target != ignore_index
    classes = torch.arange(logits.shape[1])[:, None, None]
    known = torch.where(target == ignore_index, -1 if void is None else void, target)
    y = labels((known[:, None] == classes).float())
    terms = -(positive * y * p.log() + negative * (1 - y) * (1 - p).log())
    terms = terms if only is None else terms[:, only : only + 1]
    summed = (terms.sum(1) * counted).sum((1, 2))
    if over == "sum":
        return summed.sum()
    maps = 1 if over == "pixels" else terms.shape[1]
    if over == "images":
        return (summed / counted.sum((1, 2)) / maps).mean()
    return summed.sum() / maps / (target.numel() if over == "all" else counted.sum())


@exercise("binary_scores", references.binary_scores)
def binary_scores(check: Check, answer) -> None:
    """Void, one image and several, another void; class 1 absent from prediction, target, both; void alone."""
    target = torch.tensor([[0, 0, 0, 1, 1, 255], [0, 1, 0, 0, 0, 255], [0, 0, 1, 1, 255, 0]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1, 0, 1, 1, 1], [1, 0, 0, 1, 0, 1], [0, 0, 0, 1, 1, 0]], dtype=torch.uint8)
    nothing, everything = torch.zeros_like(target), torch.ones_like(target)
    other = torch.where(target == 255, 7, target)
    large = torch.stack([target, target.flip(1)]).repeat(1, 20, 20)
    large_prediction = torch.stack([prediction, everything]).repeat(1, 20, 20)
    cases = [
        ("one image", prediction, target, {}),
        ("two images", large_prediction, large, {}),
        ("ignore_index=7", prediction, other, {"ignore_index": 7}),
        ("a prediction without class 1", nothing, target, {}),
        ("a target without class 1", prediction, nothing, {}),
        ("class 1 in neither", nothing, nothing, {}),
        ("void alone", prediction, torch.full_like(target, 255), {}),
        ("a perfect prediction", (target == 1).to(torch.uint8), target, {}),
    ]
    errors = {
        "division by zero": "0 / 0: where class 1 is in neither prediction nor target a score is float('nan'), where "
        "it is in one of them it is 0."
    }
    for words, labels, truth, settings in cases:
        found = check.call(answer, labels, truth, when=f"for {words}", errors=errors, **settings)
        check.that(
            isinstance(found, dict), f"it returns {kind_of(found)}, expected a dict with {', '.join(_FORMULAS)}."
        )
        missing = [key for key in _FORMULAS if key not in found]
        check.that(not missing, f"the dict has no {', '.join(missing)}; expected {', '.join(_FORMULAS)}.")
        expected = references.binary_scores(labels, truth, **settings)
        for key in _FORMULAS:
            mistakes = _score_mistakes(key, labels, truth, settings.get("ignore_index", 255))
            named = ((value, f"{key} for {words}: {hint}") for value, hint in mistakes)
            check.equal(found[key], expected[key], f"{key} for {words}", named, 1e-6)


def _ratio(above: float, below: float) -> float:
    return above / below if below else math.nan


def _f1(tp: float, fp: float, fn: float, tn: float) -> float:
    return _ratio(2 * tp, 2 * tp + fp + fn)


_FORMULAS: dict[str, Callable[[float, float, float, float], float]] = {
    "accuracy": lambda tp, fp, fn, tn: _ratio(tp + tn, tp + fp + fn + tn),
    "precision": lambda tp, fp, fn, tn: _ratio(tp, tp + fp),
    "recall": lambda tp, fp, fn, tn: _ratio(tp, tp + fn),
    "f1": _f1,
    "iou": lambda tp, fp, fn, tn: _ratio(tp, tp + fp + fn),
}
_WRONG_FORMULAS: dict[str, list[tuple[Callable[[float, float, float, float], float], str]]] = {
    "accuracy": [
        (lambda tp, fp, fn, tn: _ratio(tp, tp + fp + fn + tn), "pixels of class 0 that are right count, too."),
        (lambda tp, fp, fn, tn: _ratio(tp, tp + fn), "this is recall: accuracy is the share of all valid pixels."),
        (lambda tp, fp, fn, tn: _ratio(tp, tp + fp + fn), "this is the IoU: accuracy counts class 0 as well."),
        (
            lambda tp, fp, fn, tn: (_ratio(tp, tp + fn) + _ratio(tn, tn + fp)) / 2,
            "this is the mean of both classes' accuracy: the share of all valid pixels that are right.",
        ),
    ],
    "precision": [
        (_FORMULAS["recall"], "this is recall: precision divides by the pixels predicted as 1, TP / (TP + FP)."),
        (_FORMULAS["accuracy"], "this is accuracy: precision is TP / (TP + FP)."),
    ],
    "recall": [
        (_FORMULAS["precision"], "this is precision: recall divides by the pixels that are 1, TP / (TP + FN)."),
        (_FORMULAS["accuracy"], "this is accuracy: recall is TP / (TP + FN)."),
        (lambda tp, fp, fn, tn: _ratio(tn, tn + fp), "this is specificity, the recall of class 0."),
    ],
    "f1": [
        (
            lambda tp, fp, fn, tn: (_ratio(tp, tp + fp) + _ratio(tp, tp + fn)) / 2,
            "this is the arithmetic mean of precision and recall: the harmonic one, 2 P R / (P + R).",
        ),
        (lambda *counts: _f1(*counts) / 2, "the 2 is missing: 2 P R / (P + R)."),
        (lambda tp, fp, fn, tn: _ratio(tp, tp + fp + fn), "this is the IoU: F1 is 2 TP / (2 TP + FP + FN)."),
        (lambda tp, fp, fn, tn: _ratio(2 * tp, tp + fp + fn), "TP is counted once below: 2 TP / (2 TP + FP + FN)."),
        (
            lambda tp, fp, fn, tn: math.sqrt(_ratio(tp, tp + fp) * _ratio(tp, tp + fn)),
            "this is the geometric mean of precision and recall: the harmonic one, 2 P R / (P + R).",
        ),
    ],
    "iou": [
        (_f1, "this is F1 (Dice): IoU is TP / (TP + FP + FN)."),
        (lambda *counts: _f1(*counts) / 2, "the union counts the intersection twice: TP / (TP + FP + FN)."),
        (_FORMULAS["accuracy"], "this is accuracy: IoU leaves out what is class 0 in both."),
        (lambda tp, fp, fn, tn: _ratio(tp + tn, tp + tn + 2 * (fp + fn)), "it sums over both classes: class 1 alone."),
    ],
}


def _score_mistakes(key: str, prediction: Tensor, target: Tensor, ignore_index: int) -> Iterator[tuple[float, str]]:
    """What known mistakes give for one score, and their hints."""
    formula, valid = _FORMULAS[key], target != ignore_index

    def counts(prediction: Tensor, target: Tensor, valid: Tensor) -> tuple[float, float, float, float]:
        one, true = prediction == 1, target == 1
        masks = (one & true, one & ~true, ~one & true, ~one & ~true)
        return tuple(float((mask & valid).sum()) for mask in masks)

    tp, fp, fn, tn = right = counts(prediction, target, valid)
    if key != "accuracy" and tp == 0:
        absent = "class 1 is in neither prediction nor target, so the score is undefined: float('nan')."
        missed = "class 1 is in the prediction or in the target, and no pixel is hit: 0."
        yield from ((value, f"{value:g}, but {missed if fp + fn else absent}") for value in (0.0, 1.0, math.nan))
    if ignore_index != 255:
        yield formula(*counts(prediction, target, target != 255)), "ignore_index is not used: is 255 written by hand?"
    yield from ((wrong(*right), hint) for wrong, hint in _WRONG_FORMULAS[key])
    other = formula(tn, fn, fp, tp)
    yield other, "this is that of class 0: class 1 is what is looked for."
    yield (formula(*right) + other) / 2, "this is the mean of both classes: that of class 1 alone is asked for."
    everywhere = torch.ones_like(valid)
    for label in (0, 1):
        filled = torch.where(valid, target, label)
        yield (
            formula(*counts(prediction, filled, everywhere)),
            f"void pixels are counted as class {label}: leave them out.",
        )
    void = "void pixels are counted: leave them out of prediction and target."
    yield _ratio(tp + tn, target.numel()) if key == "accuracy" else math.inf, void
    if target.ndim == 3:
        each = [formula(*counts(*image)) for image in zip(prediction, target, valid, strict=True)]
        yield sum(each) / len(each), "this is the mean over images: count the pixels of all of them first."
    yield 100 * formula(*right), "this is in percent: a fraction between 0 and 1."
