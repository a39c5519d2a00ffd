"""The checks of lab 05 accept answers written in different ways; wrong ones, written anew, get the hint they need."""

import copy
import math
import operator
import statistics
from collections import Counter
from functools import partial

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from judging import assert_hint, assert_passes, rows
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import nn

from labhelpers import evaluation
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
    (micro(lambda i, r, c, u: 2 * i.sum() / (r + c).sum()), "micro", "pixel accuracy, or Dice (equal here)"),
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


def best_by_loop(val_losses, start=math.inf):
    best, place = start, 0
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


def best_by_index(start, below=operator.lt):
    """A loop over places that starts with this loss, or with the first where None."""

    def answer(val_losses):
        best, lowest = 0, val_losses[0] if start is None else start
        for i in range(len(val_losses)):
            if below(val_losses[i], lowest):
                best, lowest = i, val_losses[i]
        return best + 1

    return answer


def best_in_place(val_losses):
    val_losses.sort()
    return 1


WRONG_EPOCH = [
    (lambda x: int(np.nanargmin(x)), "first evaluation is 1"),
    (lambda x: 1 + int(np.argmin(x)), "nan counts as the lowest"),
    (lambda x: x.index(min(x)), "it counts from 0, and min()"),
    (best_of_compacted, "move up"),
    (best_by_index(None), "as does a loop that starts with the first loss"),
    (best_by_index(None, operator.le), "takes the last (`<=`), and nothing is less than a nan"),
    (best_by_index(math.inf, operator.le), "of equal losses it takes the last: the first counts"),
    *((best_by_index(start), "starts with a fixed number, which losses may exceed") for start in (1.0, 100, 1000.0)),
    (best_by_index(10_000, operator.le), "a fixed number, which losses may exceed: start with math.inf. And of equal"),
    (partial(best_by_loop, start=1000.0), "starts with a fixed number, which losses may exceed"),
    (best_in_place, "in place"),
    (lambda x: torch.tensor(best_by_loop(x)), "`.item()`"),
    (lambda x: float(best_by_loop(x)), "a Python float"),
    (lambda x: (best_by_loop(x), min(x)), "a value of type tuple"),
    (lambda x: best_by_loop([v or math.inf for v in x]), "best_epoch([0.4, 0.0, 0.2])"),
    (lambda x: best_by_loop([min(v, 1000) for v in x]), "best_epoch([25000.0, 18000.0, 19000.0])"),
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


def sweep(latency, score, key=lambda model: model[0], better=operator.gt):
    """Through the models by `key` of (latency, score, index): each that is better than the best so far."""
    best, front = -math.inf, []
    for model in sorted(zip(latency, score, range(len(score)), strict=True), key=key):
        if better(model[1], best):
            front.append(model[2])
            best = model[1]
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
    (partial(sweep, key=lambda model: (model[0], -model[1])), "only the first is kept"),
    (partial(sweep, key=lambda model: (model[0], -model[1]), better=operator.ge), "with equal scores, the slower one"),
    (sweep, "a worse one stays where it comes first, and of equal models one is lost: sort by latency, then"),
    (partial(sweep, key=lambda model: model), "comes first, and of equal models one is lost"),
    (partial(sweep, better=operator.ge), "comes first, and slower ones with an equal score, too"),
    (lambda x, y: sorted(front_where(lambda a, s, b, t: a < b and s > t, x, y)), "only better in both"),
    (lambda x, y: [*front_by_pairs(x, y)[:2], 0, 8, 7], "is [1, 3, 0, 8, 7], expected [1, 3, 6, 0, 8, 7]"),
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


def levels_by_loop(predictions, target, num_classes):
    """Pixel by pixel, a draw to the lowest label."""
    matrices = torch.zeros(len(predictions), num_classes, num_classes, dtype=torch.int64)
    for y, x in np.ndindex(*target.shape):
        votes = [(predictions[:, y, x] == label).sum().item() for label in range(num_classes)]
        if target[y, x] != 255:
            matrices[len(predictions) - max(votes), int(target[y, x]), votes.index(max(votes))] += 1
    return matrices


def levels_by_argmax(predictions, target, num_classes):
    counts = torch.stack([(predictions == label).sum(0) for label in range(num_classes)])
    most, vote = counts.amax(0), counts.argmax(0).to(torch.uint8)
    targets = [torch.where(len(predictions) - most == k, target, 255) for k in range(len(predictions))]
    return torch.stack([evaluation.confusion_matrix(vote, only, num_classes) for only in targets])


@pytest.mark.parametrize("answer", [levels_by_loop, levels_by_argmax])
def test_vote_by_level_accepts(answer):
    assert_passes("vote_by_level", answer)


def always_by_loop(matrix):
    size = len(matrix)
    return torch.tensor([[int(matrix[i].sum()) if j == 0 else 0 for j in range(size)] for i in range(size)])


def always_by_cat(matrix):
    return torch.cat([matrix.sum(1, keepdim=True), torch.zeros_like(matrix[:, 1:])], 1)


@pytest.mark.parametrize("answer", [always_by_loop, always_by_cat])
def test_always_first_accepts(answer):
    assert_passes("always_first", answer)


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
    (of_votes(lambda v, m: v.amin(0) / m), "the rarest label"),
    (of_votes(lambda v, m: 1 - v.amin(0) / m), "the rarest label's share"),
    (lambda p, k: (p != p.float().mean(0)).float().mean(0), "the mean of the labels"),
    (lambda p, k: (p != p.mode(-1, keepdim=True).values).float().mean(0), "the mode is over pixels"),
    (lambda p, k: (p != p.mode().values).float().mean(0), "these shapes do not fit", "predictions.mode(0)"),
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


# ------------------- hand_unet, count_parts, freeze_encoder and train_decoder

CHANNELS = (256, 128, 64, 32, 16)


class Net(nn.Module):
    """A right answer in which a part can be made, or used, in another way."""

    def __init__(
        self, encoder_name, num_classes, encoder=smp.encoders.get_encoder, decoder=UnetDecoder, head=SegmentationHead
    ):
        super().__init__()
        self.encoder = encoder(encoder_name)
        self.decoder = decoder(self.encoder.out_channels, CHANNELS)
        self.segmentation_head = head(16, num_classes)

    def decode(self, features):
        return self.decoder(features)

    def forward(self, images):
        return self.segmentation_head(self.decode(self.encoder(images)))


class InSequence(nn.Sequential):
    def __init__(self, encoder_name, num_classes):
        super().__init__()
        self.add_module("encoder", smp.encoders.get_encoder(encoder_name, weights=None, depth=5))
        self.add_module("decoder", UnetDecoder(self.encoder.out_channels, decoder_channels=CHANNELS, n_blocks=5))
        head = nn.Sequential(nn.Conv2d(16, num_classes, 3, padding=1), nn.Identity())
        self.add_module("segmentation_head", head)


class OfBlocks(Net):
    """The decoder's blocks run one by one."""

    def decode(self, features):
        x, *skips = features[:0:-1]
        for block, skip in zip(self.decoder.blocks, [*skips, None], strict=True):
            x = block(x, 2 * x.shape[2], 2 * x.shape[3], skip)
        return x


class Whole(smp.Unet):
    def __init__(self, encoder_name, num_classes):
        super().__init__(encoder_name, encoder_weights=None, classes=num_classes)


class PartsOfWhole(Net):
    def __init__(self, encoder_name, num_classes):
        super().__init__(encoder_name, num_classes)
        self.encoder = smp.Unet(encoder_name, classes=num_classes).encoder


class OtherNames(nn.Module):
    def __init__(self, encoder_name, num_classes):
        super().__init__()
        self.backbone = smp.encoders.get_encoder(encoder_name)
        self.decoder = UnetDecoder(self.backbone.out_channels, CHANNELS)
        self.head = SegmentationHead(16, num_classes)


class HeadNotKept(Net):
    def __init__(self, encoder_name, num_classes):
        super().__init__(encoder_name, num_classes)
        del self.segmentation_head


class OneMore(Net):
    def __init__(self, encoder_name, num_classes):
        super().__init__(encoder_name, num_classes)
        self.classifier = nn.Conv2d(16, num_classes, 1)


class Reversed(Net):
    def decode(self, features):
        return self.decoder(list(reversed(features)))


class LastAlone(Net):
    def decode(self, features):
        return self.decoder([features[-1]])


class Detached(Net):
    def decode(self, features):
        return self.decoder([feature.detach() for feature in features])


class Untracked(Net):
    def forward(self, images):
        with torch.no_grad():
            return super().forward(images)


class Frozen(Net):
    def __init__(self, encoder_name, num_classes):
        super().__init__(encoder_name, num_classes)
        self.encoder.requires_grad_(False)


class InDictionary(Net):
    def forward(self, images):
        return {"out": super().forward(images)}


class Labels(Net):
    def forward(self, images):
        logits = super().forward(images)
        return logits if self.training else logits.argmax(1)


class Swapped(Net):
    def forward(self, images):
        return super().forward(images.flip(1))


def net(**parts):
    return partial(Net, **parts)


def by_recursion(model):
    def count(module):
        own = sum(p.nelement() for p in module.parameters(recurse=False))
        return own + sum(map(count, module.children()))

    return dict(zip((n for n, _ in model.named_children()), map(count, model.children()), strict=True))


def by_product(model):
    counts = {}
    for name, part in model.named_children():
        counts[name] = 0
        for parameter in part.parameters():
            counts[name] += math.prod(parameter.shape)
    return counts


def freeze_by_loop(model):
    for parameter in model.encoder.parameters():
        parameter.requires_grad = False
    return list(filter(lambda parameter: parameter.requires_grad, model.parameters()))


def freeze_by_ids(model):
    encoder = set(map(id, model.encoder.requires_grad_(False).parameters()))
    return [p for p in reversed(list(model.parameters())) if id(p) not in encoder and p.requires_grad]


def freeze(model, found=lambda model: [p for p in model.parameters() if p.requires_grad]):
    model.encoder.requires_grad_(False)
    return found(model)


def freeze_by_attribute(model):
    model.encoder.requires_grad = False
    return [p for p in model.parameters() if p.requires_grad]


def listed_before_freezing(model):
    listed = [p for p in model.parameters() if p.requires_grad]
    model.encoder.requires_grad_(False)
    return listed


def train(model, batches, optimizer, validate, eval_every, number=float, copied=copy.deepcopy, start=math.inf):
    """A right answer whose modes are set before the loop and after each validation."""
    losses, val_losses, lowest, best = [], [], start, None
    model.train()
    model.encoder.eval()
    for images, targets in batches:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), targets, ignore_index=255)
        loss.backward()
        optimizer.step()
        losses.append(number(loss.detach()))
        if len(losses) % eval_every:
            continue
        model.eval()
        val_losses.append(validate(model))
        if val_losses[-1] < lowest:
            lowest, best = val_losses[-1], copied(model.state_dict())
        model.train()
        model.encoder.eval()
    model.load_state_dict(best)
    model.eval()
    return losses, val_losses


def train_by_children(model, batches, optimizer, validate, eval_every):
    """The mean over valid pixels by hand; all states kept, the best taken at the end."""
    losses, evaluations = [], []
    for images, targets in batches:
        for name, child in model.named_children():
            child.train(name != "encoder")
        valid = targets != 255
        log_p = model(images).log_softmax(1).gather(1, targets.where(valid, 0)[:, None])[:, 0]
        loss = -log_p[valid].mean()
        model.zero_grad()
        loss.backward()
        optimizer.step()
        losses += [loss.item()]
        if len(losses) % eval_every == 0:
            with torch.no_grad():
                found = validate(model.eval())
            evaluations.append((found, {name: weight.clone() for name, weight in model.state_dict().items()}))
    model.load_state_dict(min(evaluations, key=lambda evaluation: evaluation[0])[1])
    return losses, [found for found, _ in evaluations] if not model.eval().training else []


def train_and_keep(state_of, restore=nn.Module.load_state_dict):
    """Keeps a part of what there is where the validation loss is lowest; all else is that of the last step."""

    def answer(model, *given):
        kept = []
        found = train(model, *given, copied=lambda weights: kept.append(copy.deepcopy(state_of(model))) or weights)
        restore(model, kept[-1])
        return found

    return answer


def train_to_the_lowest_training_loss(model, *given):
    kept = [math.inf, {}]

    def number(loss):
        if loss < kept[0]:
            kept[:] = loss, copy.deepcopy(model.state_dict())
        return loss.item()

    found = train(model, *given, number=number)
    model.load_state_dict(kept[1])
    return found


def train_to_evaluation(best):
    """Keeps the state of the evaluation whose loss is best(losses so far)."""
    return train_and_validate(lambda step, every: step % every == 0, best)


def train_and_validate(due, best=min):
    def answer(model, batches, optimizer, validate, eval_every):
        losses, val_losses, kept = [], [], None
        for step, (images, targets) in enumerate(batches, start=1):
            half(model)
            losses.append(step_right(model, images, targets, optimizer))
            if due(step, eval_every):
                val_losses.append(validate(model.eval()))
                if val_losses[-1] == best(val_losses):
                    kept = copy.deepcopy(model.state_dict())
        model.load_state_dict(kept)
        model.eval()
        return losses, val_losses

    return answer


def train_by_length(model, batches, *given):
    return train(model, [batches[i] for i in range(len(batches))], *given)


def train_and_return(result):
    """The right training with something else returned."""
    return lambda *given: result(*train(*given))


def train_left_in_train_mode(model, *given):
    result = train(model, *given)
    model.train()
    return result


def train_with_modes(before, after=lambda model: None, validating=nn.Module.eval):
    """Modes set once before the first step, after each evaluation and before it."""

    def answer(model, batches, optimizer, validate, eval_every):
        losses, val_losses, best = [], [], None
        before(model)
        for step, (images, targets) in enumerate(batches, 1):
            loss = F.cross_entropy(model(images), targets, ignore_index=255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if step % eval_every == 0:
                validating(model)
                val_losses.append(validate(model))
                if best is None or val_losses[-1] <= min(val_losses):
                    best = copy.deepcopy(model.state_dict())
                after(model)
        model.load_state_dict(best)
        model.eval()
        return losses, val_losses

    return answer


def half(model):
    model.train()
    model.encoder.eval()


def train_with_step(step):
    def answer(model, batches, optimizer, validate, eval_every):
        losses, val_losses = [], []
        for number, (images, targets) in enumerate(batches, 1):
            half(model)
            losses.append(step(model, images, targets, optimizer))
            if number % eval_every == 0:
                val_losses.append(validate(model.eval()))
        model.eval()
        return losses, val_losses

    return answer


def step_never_reset(model, images, targets, optimizer):
    loss = F.cross_entropy(model(images), targets, ignore_index=255)
    loss.backward()
    optimizer.step()
    return loss.item()


def step_reset_late(model, images, targets, optimizer):
    loss = F.cross_entropy(model(images), targets, ignore_index=255)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.item()


def step_right(model, images, targets, optimizer):
    optimizer.zero_grad()
    return step_never_reset(model, images, targets, optimizer)


def step_on_void(model, images, targets, optimizer):
    return F.cross_entropy(model(images), targets).item()


def step_untracked(model, images, targets, optimizer):
    with torch.no_grad():
        loss = F.cross_entropy(model(images), targets, ignore_index=255)
    loss.backward()
    return loss.item()


NO_EVALUATION = "the state at the end with 7 steps, eval_every=2 is that of no evaluation as a whole"

RIGHT = {
    "hand_unet": [Net, InSequence, OfBlocks, net(encoder=partial(smp.encoders.get_encoder, weights=None))],
    "count_parts": [by_recursion, by_product],
    "freeze_encoder": [freeze_by_loop, freeze_by_ids, freeze],
    "train_decoder": [
        train,
        train_by_children,
        train_and_return(lambda losses, val_losses: [losses, val_losses]),
        partial(train, copied=lambda weights: {name: weight.clone() for name, weight in weights.items()}),
        train_with_modes(half, half),
    ],
}


@pytest.mark.parametrize(("name", "answer"), rows(RIGHT))
def test_smp_by_hand_accepts(name, answer):
    assert_passes(name, answer)


WRONG = {
    "hand_unet": [
        (net(encoder=partial(smp.encoders.get_encoder, weights="imagenet")), "weights=None builds it"),
        (PartsOfWhole, "smp.Unet itself"),
        (Whole, "smp.Unet itself"),
        (OtherNames, "it has no self.encoder", "its parts are backbone, decoder, head"),
        (HeadNotKept, "it has no self.segmentation_head", "its parts are encoder, decoder"),
        (OneMore, "beside encoder, decoder and segmentation_head it has ['classifier.weight']"),
        (net(encoder=lambda name: smp.encoders.get_encoder("resnet18")), "encoder.", "get_encoder(encoder_name"),
        (net(encoder=lambda name: smp.encoders.get_encoder("mobilenet_v2")), "encoder_name is not used"),
        (net(head=lambda given, _: SegmentationHead(given, 3)), "num_classes is not used"),
        (
            net(decoder=lambda given, _: UnetDecoder((3, 16, 24, 32, 96, 1280), CHANNELS)),
            "of HandUNet('efficientnet-b0', 2) decoder.",
            "self.encoder.out_channels",
        ),
        (net(decoder=lambda given, _: UnetDecoder(given, CHANNELS[::-1])), "decoder.", "(256, 128, 64, 32, 16)"),
        (net(decoder=partial(UnetDecoder, attention_type="scse")), "in smp.Unet it is missing"),
        (net(decoder=lambda given, _: UnetDecoder(given[:5], CHANNELS[:4], 4)), "self.encoder.out_channels"),
        (net(decoder=lambda given, _: UnetDecoder(given, CHANNELS, 4)), "Model depth is 4"),
        (net(head=lambda *given: SegmentationHead(*given, kernel_size=1)), "(3, 16, 1, 1)", "kernel_size 3"),
        (net(head=lambda given, _: SegmentationHead(given, 21)), "(21, 16, 3, 3)", "SegmentationHead(16, num_classes)"),
        (net(head=lambda *given: nn.Conv2d(*given, 3, padding=1)), "segmentation_head.0.weight is missing"),
        (net(head=partial(SegmentationHead, activation="sigmoid")), "a sigmoid inside forward"),
        (net(head=partial(SegmentationHead, activation="softmax2d")), "a softmax inside forward"),
        (net(head=partial(SegmentationHead, upsampling=2)), "shape (2, 3, 128, 64), expected (2, 3, 64, 32)"),
        (net(decoder=partial(UnetDecoder, interpolation_mode="bilinear")), "leave interpolation_mode out"),
        (LastAlone, "the last feature alone, in a list"),
        (Reversed, "in reversed order"),
        (Detached, "no gradient comes back to encoder"),
        (Frozen, "no gradient comes back to encoder"),
        (Untracked, "no gradient comes back through forward"),
        (InDictionary, "forward returns a value of type dict"),
        (Labels, "the output has shape (2, 64, 32)"),
        (Swapped, "the output differs"),
        (lambda encoder_name, num_classes: torch.zeros(2), "make it a class of nn.Module"),
    ],
    "count_parts": [
        (
            lambda model: {
                n: sum(p.numel() for p in m.parameters() if p.requires_grad) for n, m in model.named_children()
            },
            "frozen",
        ),
        (
            lambda model: {n: sum(t.numel() for t in m.state_dict().values()) for n, m in model.named_children()},
            "no state_dict()",
        ),
        (lambda model: {n: len([*m.parameters()]) for n, m in model.named_children()}, "numel()"),
        (
            lambda model: {n: sum(p.shape[0] for p in m.parameters()) for n, m in model.named_children()},
            "it counts rows",
        ),
        (
            lambda model: {n: sum(p.numel() for p in m.parameters() if p.ndim > 1) for n, m in model.named_children()},
            "biases and batch norm's scale",
        ),
        (lambda model: {n: torch.tensor(count) for n, count in by_product(model).items()}, "`.item()`"),
        (lambda model: sum(p.numel() for p in model.parameters()), "a Python int, expected a value of type dict"),
        (lambda model: list(by_product(model).values()), "expected a value of type dict"),
        (lambda model: by_product(model) | {"total": 0}, "has the keys"),
        (lambda model: by_product(model.encoder), "has the keys ['0', '1', '2']"),
        (lambda model: {n: count + 1 for n, count in by_product(model).items()}, "['encoder'] is 117, expected 116"),
    ],
    "freeze_encoder": [
        (freeze_by_attribute, "an attribute set on the module is not enough"),
        (listed_before_freezing, "made before the encoder is frozen"),
        (lambda model: freeze(model, lambda m: [*m.parameters()]), "holds all parameters"),
        (
            lambda model: [p for p in model.requires_grad_(False).parameters() if p.requires_grad],
            "freeze model.encoder alone",
        ),
        (
            lambda model: freeze(model, lambda m: [*m.decoder.parameters(), *m.segmentation_head.parameters()]),
            "holds encoder_scale is 0, expected 1",
            "known parts alone",
        ),
        (
            lambda model: freeze(model, lambda m: [p for n, p in m.named_parameters() if "encoder." not in n]),
            "that was frozen before",
        ),
        (lambda model: freeze(model, lambda m: [*m.encoder.parameters()]), "return those that still ask"),
        (lambda model: freeze(model, lambda m: [*freeze(m), m.encoder_scale]), "is 2, expected 1"),
        (
            lambda model: freeze(model, lambda m: [n for n, p in m.named_parameters() if p.requires_grad]),
            "a value of type str that is no parameter",
        ),
        (lambda model: freeze(model, lambda m: [*m.named_parameters()]), "a value of type tuple that is no parameter"),
        (lambda model: freeze(model, lambda m: [p.detach() for p in freeze(m)]), "a torch tensor that is no parameter"),
        (lambda model: freeze(model, lambda m: (p for p in m.parameters() if p.requires_grad)), "type generator"),
        (lambda model: freeze(model, lambda m: None), "is a `return` missing?"),
    ],
    "train_decoder": [
        (train_with_modes(nn.Module.train, nn.Module.train), "model.train(), which sets all parts"),
        (train_with_modes(half, nn.Module.train), "after the first validation: model.encoder.eval()"),
        (train_with_modes(half), "the decoder stays in eval mode"),
        (train_with_modes(nn.Module.eval), "the decoder is in eval mode:"),
        (train_with_modes(half, validating=lambda model: None), "model.eval() comes before"),
        (train_with_modes(half, half, lambda model: model.decoder.eval()), "model.eval() comes before"),
        (train_with_step(step_right), NO_EVALUATION, "expected that of evaluation 2, whose loss is the lowest"),
        (train_and_keep(copy.deepcopy, lambda model, best: None), NO_EVALUATION, "into the model"),
        (
            train_and_keep(lambda m: m.decoder.state_dict(), lambda m, best: m.decoder.load_state_dict(best)),
            NO_EVALUATION,
            "the whole state dict",
        ),
        (
            train_and_keep(lambda m: dict(m.named_parameters()), partial(nn.Module.load_state_dict, strict=False)),
            NO_EVALUATION,
            "the whole state dict",
        ),
        (train_to_the_lowest_training_loss, "expected that of evaluation 2, whose loss is the lowest"),
        (train_to_evaluation(max), "is that of evaluation 1, expected that of evaluation 2"),
        (train_to_evaluation(lambda losses: losses[-1]), "is that of evaluation 3, expected that of evaluation 2"),
        (train_by_length, "take enumerate(batches, start=1)", "TypeError with 7 steps, eval_every=2 in line"),
        (train_and_validate(lambda step, every: True), "is 7, expected 3: it validates after every step"),
        (train_and_validate(lambda step, every: (step - 1) % every == 0), "is 4, expected 3: it validates at other"),
        (train_with_step(step_never_reset), "the gradients of earlier steps are added"),
        (train_with_step(step_reset_late), "the weights do not change"),
        (train_with_step(step_on_void), "ignore_index=255"),
        (train_with_step(step_untracked), "does the forward pass run under no_grad?"),
        (partial(train, copied=lambda weights: weights), "copy.deepcopy"),
        (partial(train, copied=dict), "copy.deepcopy"),
        (partial(train, number=lambda loss: loss), "the loss of step 1", "`.item()`"),
        (partial(train, start=1.0), "no weights were kept", "math.inf"),
        (train_and_return(lambda losses, val_losses: losses), "`return losses, val_losses`"),
        (train_and_return(lambda losses, val_losses: (val_losses, losses)), "the number of losses", "is 3, expected 7"),
        (train_and_return(lambda losses, val_losses: (losses, min(val_losses))), "expected two lists"),
        (train_and_return(lambda losses, val_losses: (losses, sorted(val_losses))), "the loss of evaluation 1"),
        (train_and_return(lambda losses, val_losses: (losses[::-1], val_losses)), "the loss of step 1"),
        (train_left_in_train_mode, "the model ends in train mode"),
        (lambda *given: None, "not written yet"),
    ],
}


@pytest.mark.parametrize(("name", "answer", "hints"), rows(WRONG))
def test_smp_by_hand_rejects(name, answer, hints):
    assert_hint(name, answer, *hints)


def test_hand_unet_is_smps_and_asks_for_nothing_from_the_network():
    images = torch.randn(2, 3, 64, 96)
    for encoder in ("mobilenet_v2", "tu-tf_efficientnet_lite0"):
        model = smp.Unet(encoder, encoder_weights=None, classes=2).eval()
        by_hand = checks.hand_unet.reference(encoder, 2).eval()
        by_hand.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert by_hand(images).equal(model(images))


def test_train_decoder_leaves_the_encoder_as_it_was():
    model = nn.Sequential()
    model.add_module("encoder", nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    model.add_module("head", nn.Conv2d(4, 2, 1))
    learning = checks.freeze_encoder.reference(model)
    before = copy.deepcopy(model.state_dict())
    batches = [(torch.randn(2, 3, 4, 4), torch.randint(0, 2, (2, 4, 4))) for _ in range(4)]
    checks.train_decoder.reference(model, batches, torch.optim.SGD(learning, 0.1), lambda model: 1.0, 2)
    assert [n for n, w in model.state_dict().items() if not w.equal(before[n])] == ["head.weight", "head.bias"]
