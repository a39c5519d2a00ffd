"""The checks of binary cross-entropy and of the scores of class 1 accept right answers, name mistakes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import assert_hint, assert_passes
from torch.nn import functional

from labhelpers.course import checks

# ------------------------------------------------------- binary_cross_entropy


def one_hot(target, k):
    return functional.one_hot(target, k).movedim(-1, 1).float()


def library(logits, target, ignore_index=255):
    """With torch's own function, whose logarithms end at -100."""
    valid = target != ignore_index
    y = one_hot(torch.where(valid, target, 0), logits.shape[1]).to(logits)
    losses = functional.binary_cross_entropy(logits.softmax(1), y, reduction="none")
    return (losses * valid[:, None]).sum() / (valid.sum() * logits.shape[1]).clamp_min(1)


def selected(logits, target, ignore_index=255):
    """Leaves void pixels out before anything is computed."""
    valid = target != ignore_index
    if not valid.any():
        return (logits * 0).sum()
    p = torch.softmax(logits, dim=1).permute(0, 2, 3, 1)[valid]
    return functional.binary_cross_entropy(p, functional.one_hot(target[valid], logits.shape[1]).to(p.dtype))


def clamped(logits, target, ignore_index=255):
    p = logits.softmax(1).clamp(1e-7, 1 - 1e-7)
    total = 0.0
    count = 0
    for k in range(logits.shape[1]):
        y = (target == k).float()
        terms = -(y * torch.log(p[:, k]) + (1 - y) * torch.log(1 - p[:, k]))
        total = total + terms[target != ignore_index].sum()
        count += (target != ignore_index).sum()
    return total / max(int(count), 1)


def with_epsilon(logits, target, ignore_index=255):
    p, valid = logits.softmax(1), (target != ignore_index).unsqueeze(1)
    y = target.unsqueeze(1) == torch.arange(logits.size(1)).view(1, -1, 1, 1)
    terms = torch.where(y, (p + 1e-8).log(), (1 - p + 1e-8).log()) * valid
    return -terms.sum() / torch.clamp(valid.sum() * logits.size(1), min=1)


def by_other_classes(logits, target, ignore_index=255):
    """log(1 - p_k) as what the other maps have together; exact everywhere."""
    k, all_of_them = logits.shape[1], logits.logsumexp(1)
    losses = torch.zeros(())
    valid = target != ignore_index
    for c in range(k):
        others = logits[:, [i for i in range(k) if i != c]].logsumexp(1) - all_of_them
        losses = losses - torch.where(target == c, logits[:, c] - all_of_them, others)[valid].sum()
    return losses / (k * valid.sum().clamp_min(1))


def by_logits(logits, target, ignore_index=255):
    """binary_cross_entropy_with_logits of the logit of the softmax."""
    k, valid = logits.shape[1], target != ignore_index
    y = one_hot(torch.where(valid, target, 0), k)
    others = torch.stack([logits[:, [i for i in range(k) if i != c]].logsumexp(1) for c in range(k)], 1)
    losses = functional.binary_cross_entropy_with_logits(logits - others, y, reduction="none").mean(1)
    return (losses * valid).sum() / valid.sum().clamp(min=1)


@pytest.mark.parametrize("answer", [library, selected, clamped, with_epsilon, by_other_classes, by_logits])
def test_binary_cross_entropy_accepts(answer):
    assert_passes("binary_cross_entropy", answer)


def changed(
    *,
    activation=lambda x: x.softmax(1),
    labels=one_hot,
    positive=True,
    negative=True,
    fill=0,
    masked=True,
    finish=None,
    finite=True,
):
    def answer(logits, target, ignore_index=255):
        valid = target != ignore_index
        y = labels(torch.where(valid, target, fill), logits.shape[1])
        p = activation(logits)
        p = p.clamp(1e-7, 1 - 1e-7) if finite else p
        terms = -(positive * y * p.log() + negative * (1 - y) * (1 - p).log())
        counted = valid if masked else torch.ones_like(valid)
        if finish:
            return finish(terms * counted[:, None], counted)
        return (terms * counted[:, None]).sum() / (terms.shape[1] * counted.sum()).clamp_min(1)

    return answer


def per_image(terms, valid):
    return (terms.mean(1).sum((1, 2)) / valid.sum((1, 2)).clamp_min(1)).mean()


def first_map_only(logits, target, ignore_index=255, labels=lambda target: target == 1):
    valid = target != ignore_index
    return functional.binary_cross_entropy(logits.softmax(1)[:, 1][valid], labels(target[valid]).float())


def classes_as_numbers(logits, target, ignore_index=255):
    return first_map_only(logits, target, ignore_index, labels=lambda target: target)


def cross_entropy(logits, target, ignore_index=255):
    return functional.cross_entropy(logits, target, ignore_index=ignore_index)


def with_logits(logits, target, ignore_index=255):
    valid = target != ignore_index
    y = one_hot(torch.where(valid, target, 0), logits.shape[1])
    return functional.binary_cross_entropy_with_logits(logits.movedim(1, -1)[valid], y.movedim(1, -1)[valid])


def ignores_255(logits, target, ignore_index=255):
    return library(logits, torch.where(target == 255, 255, target))


def detached_part(logits, target, ignore_index=255):
    p, valid = logits.softmax(1), target != ignore_index
    y = one_hot(torch.where(valid, target, 0), logits.shape[1])
    terms = -(y * p.clamp(1e-7).log() + (1 - y) * (1 - p.detach()).clamp(1e-7).log()).mean(1)
    return (terms * valid).sum() / valid.sum().clamp_min(1)


def nan_when_void(logits, target, ignore_index=255):
    valid = target != ignore_index
    p = logits.softmax(1).movedim(1, -1)[valid]
    return functional.binary_cross_entropy(p, functional.one_hot(target[valid], logits.shape[1]).float())


def constant_when_void(logits, target, ignore_index=255):
    return library(logits, target, ignore_index) if (target != ignore_index).any() else torch.tensor(0.0)


def in_place(logits, target, ignore_index=255):
    return library(logits.sub_(logits.amax(1, keepdim=True)), target, ignore_index)


def minus_log(logits, target, ignore_index=255):
    """Finite value, gradient nan: where() hides the infinite branch of the value alone."""
    p, valid = logits.softmax(1), target != ignore_index
    y = one_hot(torch.where(valid, target, 0), logits.shape[1])
    log_p = torch.where(p > 0, p.log(), -100.0)
    log_q = torch.where(p < 1, (1 - p).log(), -100.0)
    return (-(y * log_p + (1 - y) * log_q).mean(1) * valid).sum() / valid.sum().clamp_min(1)


WRONG_LOSSES = [
    (changed(activation=torch.sigmoid), "it uses sigmoid"),
    (with_logits, "it uses sigmoid (is it ..._with_logits?)"),
    (changed(activation=lambda x: x.softmax(0)), "over the wrong axis"),
    (changed(activation=lambda x: x.softmax(2)), "over the wrong axis"),
    (changed(activation=lambda x: x.softmax(-1)), "over the wrong axis"),
    (changed(activation=lambda x: x.softmax(1).softmax(1)), "softmax is taken twice"),
    (changed(activation=lambda x: x.softmax(1).sigmoid()), "a sigmoid after the softmax"),
    (changed(finish=lambda terms, valid: terms.sum()), "it is the sum"),
    (changed(finish=lambda terms, valid: terms.sum() / valid.sum()), "summed over the maps"),
    (changed(finish=lambda terms, valid: terms.mean()), "void pixels are counted in the mean, as zeros"),
    (changed(finish=per_image), "averaged within each image"),
    (changed(masked=False), "void pixels are counted as background"),
    (changed(negative=False), "(1 - y) log(1 - p) is missing"),
    (changed(positive=False), "y log p is missing"),
    (changed(labels=lambda t, k: t[:, None].float()), "the target is not one-hot"),
    (changed(labels=lambda t, k: 1 - one_hot(t, k)), "y is turned around"),
    (changed(labels=lambda t, k: one_hot(t, k).flip(1)), "are in the wrong order"),
    (lambda *given, **named: -library(*given, **named), "the sign is wrong"),
    (first_map_only, "only map 1 is compared"),
    (classes_as_numbers, "the target is not one-hot"),
    (
        lambda logits, target, ignore_index=255: functional.binary_cross_entropy(logits.softmax(1), target.float()),
        "it needs a map for each class",
    ),
    (cross_entropy, "this is cross-entropy"),
    (ignores_255, "ignore_index is not used"),
    (changed(finite=False), "and the loss nan: take log_softmax"),
    (minus_log, "the gradient is not finite"),
    (nan_when_void, "void alone gives nan"),
    (constant_when_void, "a loss without a gradient"),
    (detached_part, "is a part of it detached?"),
    (in_place, "in place"),
    (lambda logits, target, ignore_index=255: library(logits.detach(), target, ignore_index), "no gradient comes back"),
    (lambda logits, target, ignore_index=255: library(logits, target, ignore_index).item(), "expected a torch tensor"),
    (lambda logits, target, ignore_index=255: one_hot(target, 2), "void (255) goes into one_hot"),
    (
        lambda logits, target, ignore_index=255: functional.binary_cross_entropy(logits, logits),
        "binary_cross_entropy takes probabilities",
    ),
    (lambda logits, target, ignore_index=255: library(logits, target, ignore_index)[None], "has shape (1,)"),
    (lambda logits, target: library(logits, target), "unexpected keyword argument 'ignore_index'"),
    (lambda logits, target, ignore_index=255: None, "not written yet"),
]


@pytest.mark.parametrize(("answer", "hint"), WRONG_LOSSES)
def test_binary_cross_entropy_rejects(answer, hint):
    assert_hint("binary_cross_entropy", answer, hint)


@given(st.integers(2, 5), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_reference_loss_is_that_of_torch_and_cross_entropy_for_two_maps(k, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, k, 3, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(0, k, (2, 3, 5), generator=generator)
    target[0, 0] = 255
    loss = checks.binary_cross_entropy.reference(logits, target)
    torch.testing.assert_close(loss, library(logits, target))
    if k == 2:
        torch.testing.assert_close(loss, functional.cross_entropy(logits, target, ignore_index=255))


# -------------------------------------------------------------- binary_scores


def divide(a, b, empty=0.0):
    return a / b if b else empty


def by_counts(prediction, target, ignore_index=255):
    valid = target != ignore_index
    p, t = prediction[valid] == 1, target[valid] == 1
    tp, fp, fn = (int(x.sum()) for x in (p & t, p & ~t, ~p & t))
    absent = math.nan if tp + fp + fn == 0 else 0.0
    return {
        "accuracy": divide((p == t).sum().item(), t.numel(), math.nan),
        "precision": divide(tp, tp + fp, absent),
        "recall": divide(tp, tp + fn, absent),
        "f1": divide(2 * tp, 2 * tp + fp + fn, absent),
        "iou": divide(tp, tp + fp + fn, absent),
    }


def by_numpy(prediction, target, ignore_index=255):
    """np.float64, a confusion matrix, further keys, another order."""
    p, t = np.asarray(prediction).ravel(), np.asarray(target).ravel()
    matrix = np.bincount(2 * t[t != ignore_index].astype(int) + p[t != ignore_index], minlength=4).reshape(2, 2)
    tp, fp, fn = matrix[1, 1], matrix[0, 1], matrix[1, 0]
    with np.errstate(invalid="ignore"):
        iou = np.float64(tp) / (tp + fp + fn)
        accuracy = np.float64(np.trace(matrix)) / matrix.sum()
    known = tp + fp + fn > 0
    precision, recall = (np.float64(tp) / max(tp + x, 1) if known else np.nan for x in (fp, fn))
    f1 = 2 * iou / (1 + iou)
    return {"iou": iou, "f1": f1, "precision": precision, "recall": recall, "accuracy": accuracy, "support": tp + fn}


def by_means(prediction, target, ignore_index=255):
    """F1 from precision and recall, with their zeros taken care of; tensors until the end."""
    valid = (target != ignore_index).float()
    p, t = (prediction == 1) * valid, (target == 1) * valid
    hits, union = (p * t).sum(), ((p + t) > 0).float().sum()
    if union == 0:
        accuracy = 1.0 if valid.sum() else float("nan")
        return dict.fromkeys(("precision", "recall", "f1", "iou"), float("nan")) | {"accuracy": accuracy}
    precision, recall = hits / p.sum().clamp(min=1), hits / t.sum().clamp(min=1)
    f1 = 2 * precision * recall / (precision + recall) if hits > 0 else torch.zeros(())
    accuracy = ((prediction == target) * valid).sum() / valid.sum()
    found = {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1, "iou": hits / union}
    return {name: value.item() for name, value in found.items()}


@pytest.mark.parametrize("answer", [by_counts, by_numpy, by_means])
def test_binary_scores_accepts(answer):
    assert_passes("binary_scores", answer)


def other(key, score):
    """The right scores but for one, computed from the counts of true positives, false ones, negatives."""

    def answer(prediction, target, ignore_index=255):
        valid = target != ignore_index
        p, t = prediction[valid] == 1, target[valid] == 1
        counts = (float(x.sum()) for x in (p & t, p & ~t, ~p & t, ~p & ~t))
        found = by_counts(prediction, target, ignore_index)
        return found | {key: float(score(*counts, found))}

    return answer


def swapped(prediction, target, ignore_index=255):
    found = by_counts(prediction, target, ignore_index)
    return found | {"precision": found["recall"], "recall": found["precision"]}


def of_class_zero(prediction, target, ignore_index=255):
    return by_counts(1 - prediction, torch.where(target == ignore_index, ignore_index, 1 - target), ignore_index)


def of_both(prediction, target, ignore_index=255):
    one, zero = by_counts(prediction, target, ignore_index), of_class_zero(prediction, target, ignore_index)
    return {key: (one[key] + zero[key]) / 2 for key in one}


def void_as(label):
    return lambda p, t, ignore_index=255: by_counts(p, torch.where(t == ignore_index, label, t))


def per_image_scores(prediction, target, ignore_index=255):
    if prediction.ndim == 2:
        return by_counts(prediction, target, ignore_index)
    each = [by_counts(p, t, ignore_index) for p, t in zip(prediction, target, strict=True)]
    return {key: sum(found[key] for found in each) / len(each) for key in each[0]}


def void_in_prediction(prediction, target, ignore_index=255):
    """Leaves void out of the target only: a void pixel predicted as 1 is a false positive."""
    p, t = prediction == 1, target == 1
    tp, fp, fn = (p & t).sum().item(), (p & ~t).sum().item(), (~p & t).sum().item()
    found = by_counts(prediction, target, ignore_index)
    return found | {"precision": divide(tp, tp + fp), "iou": divide(tp, tp + fp + fn)}


def unguarded(prediction, target, ignore_index=255):
    valid = target != ignore_index
    p, t = prediction[valid] == 1, target[valid] == 1
    tp, fp, fn = ((x.sum().item()) for x in (p & t, p & ~t, ~p & t))
    return {
        "accuracy": (p == t).sum().item() / t.numel(),
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
    }


def absent_as(value):
    def answer(prediction, target, ignore_index=255):
        found = by_counts(prediction, target, ignore_index)
        return {key: value if math.isnan(score) else score for key, score in found.items()}

    return answer


def nan_when_missed(prediction, target, ignore_index=255):
    valid = target != ignore_index
    p, t = prediction[valid] == 1, target[valid] == 1
    tp, fp, fn = (int(x.sum()) for x in (p & t, p & ~t, ~p & t))
    found = by_counts(prediction, target, ignore_index)
    return found | {"precision": divide(tp, tp + fp, math.nan), "recall": divide(tp, tp + fn, math.nan)}


def mapped(function):
    return lambda *given, **named: {key: function(value) for key, value in by_counts(*given, **named).items()}


def bytes_overflow(prediction, target, ignore_index=255):
    """Sums of bytes wrap around."""
    valid = target != ignore_index
    tp = (prediction[valid] * (target[valid] == 1)).sum(dtype=torch.uint8).item()
    return by_counts(prediction, target, ignore_index) | {"precision": tp / max(1, int(prediction[valid].sum()))}


WRONG_SCORES = [
    (swapped, "precision for one image", "this is recall: precision divides by the pixels predicted as 1"),
    (other("recall", lambda tp, fp, fn, tn, s: s["precision"]), "recall for one image", "this is precision"),
    (other("recall", lambda tp, fp, fn, tn, s: divide(tn, tn + fp)), "this is specificity"),
    (other("f1", lambda tp, fp, fn, tn, s: (s["precision"] + s["recall"]) / 2), "the arithmetic mean"),
    (other("f1", lambda tp, fp, fn, tn, s: math.sqrt(s["precision"] * s["recall"])), "the geometric mean"),
    (other("f1", lambda tp, fp, fn, tn, s: s["f1"] / 2), "the 2 is missing"),
    (other("f1", lambda tp, fp, fn, tn, s: s["iou"]), "this is the IoU"),
    (other("f1", lambda tp, fp, fn, tn, s: divide(2 * tp, tp + fp + fn)), "TP is counted once below"),
    (other("iou", lambda tp, fp, fn, tn, s: s["f1"]), "this is F1 (Dice)"),
    (other("iou", lambda tp, fp, fn, tn, s: s["f1"] / 2), "counts the intersection twice"),
    (other("iou", lambda tp, fp, fn, tn, s: divide(tn, tn + fp + fn)), "iou for one image", "this is that of class 0"),
    (
        other("iou", lambda tp, fp, fn, tn, s: (divide(tn, tn + fp + fn) + s["iou"]) / 2),
        "iou for one image",
        "this is the mean of both classes",
    ),
    (other("accuracy", lambda tp, fp, fn, tn, s: divide(tp, tp + fp + fn + tn)), "pixels of class 0 that are right"),
    (
        other("accuracy", lambda tp, fp, fn, tn, s: (divide(tp, tp + fn) + divide(tn, tn + fp)) / 2),
        "this is the mean of both classes' accuracy",
    ),
    (of_class_zero, "precision for one image", "this is that of class 0"),
    (of_both, "precision for one image", "this is the mean of both classes"),
    (void_as(0), "accuracy for one image", "void pixels are counted as class 0"),
    (void_as(1), "accuracy for one image", "void pixels are counted as class 1"),
    (void_in_prediction, "precision for one image", "void pixels are counted as class 0: leave them out"),
    (lambda p, t, ignore_index=255: by_counts(p, t), "for ignore_index=7", "ignore_index is not used"),
    (per_image_scores, "precision for two images", "this is the mean over images"),
    (unguarded, "0 / 0: where class 1 is in neither prediction nor target", "ZeroDivisionError"),
    (absent_as(0.0), "precision for class 1 in neither", "class 1 is in neither"),
    (absent_as(1.0), "precision for class 1 in neither", "class 1 is in neither"),
    (nan_when_missed, "precision for a prediction without class 1", "class 1 is in the prediction or in"),
    (bytes_overflow, "precision for two images"),
    (mapped(lambda value: 100 * value), "in percent"),
    (mapped(torch.tensor), "Convert it with `.item()`"),
    (mapped(str), "a value of type str, expected a Python float"),
    (lambda *given, **named: list(by_counts(*given, **named).values()), "expected a dict with accuracy, precision"),
    (lambda *given, **named: {"accuracy": 1.0, "F1": 1.0}, "the dict has no precision, recall, f1, iou"),
    (lambda prediction, target, ignore_index=255: None, "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_SCORES])
def test_binary_scores_rejects(answer, hints):
    assert_hint("binary_scores", answer, *hints)


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_reference_scores_follow_from_the_counts(seed, predicted, there):
    rng = np.random.default_rng(seed)
    prediction = torch.from_numpy((rng.random((5, 6)) < predicted).astype(np.uint8))
    target = torch.from_numpy((rng.random((5, 6)) < there).astype(np.uint8))
    target[0, :3] = 255
    expected = by_counts(prediction, target)
    assert checks.binary_scores.reference(prediction, target) == pytest.approx(expected, nan_ok=True)
