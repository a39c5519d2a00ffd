"""The checks of lab 05 accept answers written in different ways; wrong ones, written anew, get the hint they need."""

import math
import statistics
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import assert_hint, assert_passes

from labhelpers.course import checks
from labhelpers.evaluation import scores

# --------------------- micro_macro_iou, best_epoch, pareto_front, disagreement


def parts(matrix):
    m = matrix.double()
    hit, row, column = m.diagonal(), m.sum(1), m.sum(0)
    return hit, row, column, row + column - hit


def averages(micro, macro):
    """An answer from two formulas of (hit, row sums, column sums, unions)."""
    return lambda matrix: (float(micro(*parts(matrix))), float(macro(*parts(matrix))))


def right_micro(i, r, c, u):
    return i.sum() / u.sum()


def right_macro(i, r, c, u):
    return torch.nanmean(i / u)


def averages_loop(matrix):
    m, ious, inter, union = matrix.numpy(), [], 0, 0
    for k in range(len(m)):
        i, u = m[k, k], m[k].sum() + m[:, k].sum() - m[k, k]
        inter, union = inter + i, union + u
        if u:
            ious.append(i / u)
    return inter / union, sum(ious) / len(ious)


def averages_by_numpy(matrix):
    m = matrix.numpy().astype(float)
    i = np.diag(m)
    u = m.sum(0) + m.sum(1) - i
    with np.errstate(invalid="ignore"):
        return i.sum() / u.sum(), np.nanmean(i / u)


def averages_from_accuracy(matrix):
    accuracy = (matrix.diagonal().sum() / matrix.sum()).item()
    return accuracy / (2 - accuracy), scores(matrix.numpy()).mean_iou


def averages_as_list(matrix):
    return list(averages(right_micro, right_macro)(matrix))


@pytest.mark.parametrize(
    "answer",
    [averages(right_micro, right_macro), averages_loop, averages_by_numpy, averages_from_accuracy, averages_as_list],
)
def test_micro_macro_accepts(answer):
    assert_passes("micro_macro_iou", answer)


def micro(formula):
    return averages(formula, right_macro)


def macro(formula):
    return averages(right_micro, formula)


WRONG_AVERAGES = [
    (averages(right_macro, right_micro), "exchanged"),
    (micro(lambda i, r, c, u: i[r > 0].sum() / u[r > 0].sum()), "micro", "class 4"),
    (micro(right_macro), "micro is 0.2"),
    (macro(lambda i, r, c, u: ((i + 1e-9) / (u + 1e-9)).mean()), "macro", "perfect 1"),
    (macro(lambda i, r, c, u: (i / u)[i > 0].mean()), "macro", "no hit"),
    (lambda matrix: averages_loop(matrix)[0], "`return micro, macro`"),
    (lambda matrix: (*averages_loop(matrix), 1.0), "a value of type tuple of 3"),
    (lambda matrix: torch.tensor(averages_loop(matrix)), "a torch tensor", "`return micro, macro`"),
    (lambda matrix: tuple(map(torch.tensor, averages_loop(matrix))), "`.item()`"),
    (lambda matrix: averages_loop(matrix.int()), "beyond 32 bits"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_AVERAGES])
def test_micro_macro_rejects(answer, hints):
    assert_hint("micro_macro_iou", answer, *hints)


@given(st.lists(st.lists(st.integers(0, 10**6), min_size=4, max_size=4), min_size=4, max_size=4))
@settings(max_examples=50, deadline=None)
def test_micro_iou_is_pixel_accuracy_in_disguise(rows):
    matrix = torch.tensor(rows)
    if matrix.any():
        accuracy = (matrix.diagonal().sum() / matrix.sum()).item()
        assert checks.micro_macro_iou.reference(matrix)[0] == pytest.approx(accuracy / (2 - accuracy), abs=1e-6)


# ----------------------------------------------------------------- best_epoch


def best_by_loop(val_losses):
    best, place = math.inf, 0
    for epoch, loss in enumerate(val_losses, start=1):
        if loss < best:
            best, place = loss, epoch
    return place


def best_by_inf(val_losses):
    return 1 + min(range(len(val_losses)), key=lambda i: math.inf if math.isnan(val_losses[i]) else val_losses[i])


def best_by_tensor(val_losses):
    return 1 + torch.tensor(val_losses).nan_to_num(nan=torch.inf).argmin().item()


@pytest.mark.parametrize(
    "answer",
    [
        best_by_loop,
        best_by_inf,
        best_by_tensor,
        lambda x: np.nanargmin(x) + 1,
        lambda x: sorted((v, i) for i, v in enumerate(x, 1) if v == v)[0][1],
    ],
)
def test_best_epoch_accepts(answer):
    assert_passes("best_epoch", answer)


def best_of_compacted(val_losses):
    kept = [loss for loss in val_losses if not math.isnan(loss)]
    return kept.index(min(kept)) + 1


def best_in_place(val_losses):
    val_losses.sort()
    return 1


WRONG_EPOCH = [
    (lambda x: int(np.nanargmin(x)), "first evaluation is 1"),
    (lambda x: 1 + int(np.argmin(x)), "nan counts as the lowest"),
    (lambda x: x.index(min(x)), "it counts from 0, and min()"),
    (best_of_compacted, "move up"),
    (best_in_place, "in place"),
    (lambda x: torch.tensor(best_by_loop(x)), "`.item()`"),
    (lambda x: float(best_by_loop(x)), "a Python float"),
    (lambda x: (best_by_loop(x), min(x)), "a value of type tuple"),
    (lambda x: best_by_loop([v or math.inf for v in x]), "best_epoch([0.4, 0.0, 0.2])"),
    (lambda x: best_by_loop([v if v < 100 else math.inf for v in x]), "best_epoch([250.0, 180.0, 190.0])"),
    (lambda x: x.index(sorted(x)[0]) + 1, "right but where a loss is nan"),
    (lambda x: x.index(statistics.median(x)) + 1, "best_epoch([0.9, 0.6, 0.7, 0.4, 0.5])"),
]


@pytest.mark.parametrize(("answer", "hint"), WRONG_EPOCH)
def test_best_epoch_rejects(answer, hint):
    assert_hint("best_epoch", answer, hint)


@given(st.lists(st.one_of(st.floats(0, 3), st.just(math.nan)), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_reference_best_epoch_is_numpys(losses):
    if not all(map(math.isnan, losses)):
        assert checks.best_epoch.reference(losses) == np.nanargmin(losses) + 1


# --------------------------------------------------------------- pareto_front


def front_by_pairs(latency, score):
    front = []
    for i in range(len(latency)):
        for j in range(len(latency)):
            no_worse = latency[j] <= latency[i] and score[j] >= score[i]
            better = latency[j] < latency[i] or score[j] > score[i]
            if no_worse and better:
                break
        else:
            front.append(i)
    return sorted(front, key=latency.__getitem__)


def front_by_sweep(latency, score):
    front, best = [], None
    for i in sorted(range(len(score)), key=lambda i: (latency[i], -score[i])):
        if best is None or score[i] > score[best] or (latency[i], score[i]) == (latency[best], score[best]):
            front.append(i)
            best = i
    return front


def front_by_numpy(latency, score):
    x, y = np.array(latency), np.array(score)
    no_worse = (x[None] <= x[:, None]) & (y[None] >= y[:, None])
    better = (x[None] < x[:, None]) | (y[None] > y[:, None])
    front = np.flatnonzero(~(no_worse & better).any(1))
    return front[np.argsort(x[front], kind="stable")].tolist()


def front_equals_backwards(latency, score):
    return sorted(front_by_pairs(latency, score), key=lambda i: (latency[i], -i))


@pytest.mark.parametrize(
    "answer",
    [
        front_by_pairs,
        front_by_sweep,
        front_by_numpy,
        front_equals_backwards,
        lambda *given: tuple(front_by_pairs(*given)),
        lambda *given: [np.int64(i) for i in front_by_pairs(*given)],
    ],
)
def test_pareto_front_accepts(answer):
    assert_passes("pareto_front", answer)


def front_where(beats, latency, score):
    """The models that none beats; beats(latency and score of another, of this one)."""
    models = list(zip(latency, score, strict=True))
    kept = [i for i, m in enumerate(models) if not any(beats(*o, *m) for j, o in enumerate(models) if j != i)]
    return sorted(kept, key=latency.__getitem__)


def front_once(latency, score):
    seen = {}
    for i in front_by_pairs(latency, score):
        seen.setdefault((latency[i], score[i]), i)
    return list(seen.values())


def front_from_zero(latency, score):
    front, best = [], 0
    for i in front_by_pairs(latency, score):
        if score[i] > best or (front and score[i] == best):
            front.append(i)
            best = score[i]
    return front


def front_in_place(latency, score):
    front = front_by_pairs(latency, score)
    latency.sort()
    return front


WRONG_FRONT = [
    (lambda x, y: sorted({x.index(min(x)), y.index(max(y))}, key=x.__getitem__), "the fastest and the best alone"),
    (partial(front_where, lambda a, s, b, t: a < b and s > t), "only better in both"),
    (partial(front_where, lambda a, s, b, t: a <= b and s >= t), "throw each other out"),
    (front_once, "only the first is kept"),
    (front_from_zero, "score=[0.0, 0.0]) is [], expected [1]"),
    (lambda x, y: front_by_pairs(x, y) if len(x) > 1 else [], "score=[0.5]) is [], expected [0]"),
    (lambda x, y: sorted(front_by_pairs(x, y)), "fastest first"),
    (lambda x, y: front_by_pairs(x, y)[::-1], "fastest first"),
    (lambda x, y: [i in front_by_pairs(x, y) for i in range(len(x))], "True and False"),
    (lambda x, y: [(x[i], y[i]) for i in front_by_pairs(x, y)], "the models' indices"),
    (lambda x, y: [x[i] for i in front_by_pairs(x, y)], "a Python float", "the models' indices"),
    (lambda x, y: set(front_by_pairs(x, y)), "no order"),
    (lambda x, y: np.array(front_by_pairs(x, y)), "`.tolist()`"),
    (lambda x, y: torch.tensor(front_by_pairs(x, y)), "`.tolist()`"),
    (lambda x, y: dict.fromkeys(front_by_pairs(x, y)), "a value of type dict"),
    (lambda x, y: [*front_by_pairs(x, y), 0], "expected"),
    (front_in_place, "in place"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_FRONT])
def test_pareto_front_rejects(answer, hints):
    assert_hint("pareto_front", answer, *hints)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=9))
@settings(max_examples=80, deadline=None)
def test_reference_front_is_that_of_a_sweep_and_of_numpy(models):
    latency, score = map(list, zip(*models, strict=True))
    assert (
        checks.pareto_front.reference(latency, score)
        == front_by_sweep(latency, score)
        == front_by_numpy(latency, score)
    )


# --------------------------------------------------------------- disagreement


def votes_by_mode(predictions, num_classes):
    return (predictions != predictions.mode(0).values).float().mean(0)


def votes_by_loop(predictions, num_classes):
    most = torch.zeros(predictions.shape[1:])
    for label in range(num_classes):
        most = torch.maximum(most, (predictions == label).float().mean(0))
    return 1 - most


def votes_by_counter(predictions, num_classes):
    models, height, width = predictions.shape
    out = torch.empty(height, width)
    for i in range(height):
        for j in range(width):
            out[i, j] = 1 - max(Counter(predictions[:, i, j].tolist()).values()) / models
    return out


def votes_by_one_hot(predictions, num_classes):
    return 1 - F.one_hot(predictions.to(torch.int64), num_classes).float().mean(0).max(-1).values


def votes_by_bincount(predictions, num_classes):
    models, height, width = predictions.shape
    index = predictions.reshape(models, -1).long() + num_classes * torch.arange(height * width)
    counts = torch.bincount(index.flatten(), minlength=num_classes * height * width).view(height, width, num_classes)
    return (models - counts.max(2).values) / models


@pytest.mark.parametrize(
    "answer", [votes_by_mode, votes_by_loop, votes_by_counter, votes_by_one_hot, votes_by_bincount]
)
def test_disagreement_accepts(answer):
    assert_passes("disagreement", answer)


def votes(predictions, num_classes):
    return torch.stack([(predictions == label).sum(0) for label in range(num_classes)])


def of_votes(formula):
    """An answer from a formula of (votes (K, H, W), number of models)."""
    return lambda predictions, num_classes: formula(votes(predictions, num_classes), len(predictions))


def in_place(predictions, num_classes):
    predictions[predictions == 0] = 1
    return votes_by_mode(predictions, num_classes)


WRONG_VOTES = [
    (of_votes(lambda v, m: v.amax(0) / m), "share that agrees"),
    (lambda p, k: p.float().var(0), "variance"),
    (lambda p, k: (p != p[-1]).float().mean(0), "the last model"),
    (of_votes(lambda v, m: (m - v.amax(0)) / len(v)), "number of classes"),
    (of_votes(lambda v, m: (1 - v.amax(0) / m).double()), "expected torch.float32"),
    (of_votes(lambda v, m: (1 - v.amax(0) / m).numpy()), "torch.from_numpy"),
    (of_votes(lambda v, m: 1 - v.amax(0) / 7), "of four models"),
    (of_votes(lambda v, m: (1 - v.amax(0) / m)[None]), "shape"),
    (of_votes(lambda v, m: (1 - v.amax(0) / m).T), "axes in another order"),
    (lambda p, k: votes_by_mode(p, k) + 0.001, "differs in 30 of 30"),
    (lambda p, k: 1 - F.one_hot(p, k).float().mean(0).amax(-1), "predictions.long()"),
    (lambda p, k: p if p[0] == p[1] else p, "take its mean"),
    (in_place, "in place"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG_VOTES])
def test_disagreement_rejects(answer, hints):
    assert_hint("disagreement", answer, *hints)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_reference_disagreement_is_that_of_the_mode(models, num_classes, seed):
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randint(0, num_classes, (models, 3, 4), dtype=torch.uint8, generator=generator)
    found = checks.disagreement.reference(predictions, num_classes)
    assert torch.allclose(found, votes_by_mode(predictions, num_classes), atol=1e-6)
    assert (found == 0).equal((predictions == predictions[0]).all(0))
