"""Training networks that answer prompts: the loss, what one step asks, and the scores, as tasks of the training loop.

A step draws objects from the label maps *after* augmentation, and prompts from these objects' masks: prompts can then
not fail to follow a flip or a crop. Part of the steps goes on as a user would: the network answers, a click falls into
the middle of its largest error, and it answers again (iterative training: Sofiiuk et al., RITM, ICIP 2022; Kirillov
et al., Segment Anything, ICCV 2023, appendix A).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset
from labhelpers.data.voc import comparison_indices, visible_objects
from labhelpers.evaluation import Evaluation, inference
from labhelpers.evaluation.confusion import confusion_matrix, scores, to_labels
from labhelpers.evaluation.evaluator import check_logits, compute_logits
from labhelpers.models.mini_sam import BaseMiniSAM
from labhelpers.prompting.objects import objects
from labhelpers.prompting.predictor import OVERVIEW, OneLook
from labhelpers.prompting.sampling import box_from_mask, centre_click, next_click, random_click, sample_points
from labhelpers.prompting.scores import PromptScores, evaluate_prompts, evaluate_semantic
from labhelpers.training import Task, TrainingState
from labhelpers.training.losses import Loss, OwnLoss
from labhelpers.training.recipe import fingerprint, require, require_count, require_number

MEAN_WEIGHT = 0.1  # of the mean over the candidates, beside the minimum
IOU_WEIGHT = 0.1  # of the squared error of the predicted IoU
NO_BOX = np.full(4, np.nan, dtype=np.float32)

StepLoss = Callable[[BaseMiniSAM, Tensor, "Prompts", int], Tensor]


def prompt_loss(logits: Tensor, predicted_iou: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy + Dice of the best candidate, a tenth of their mean, a tenth of the predicted IoU's squared error.

    A click may mean the wheel, the car or the row of cars, so the network draws several masks, and only the best of
    them is held to the target: the minimum over the candidates (Kirillov et al., Segment Anything, ICCV 2023, appendix
    A). Here each of the others learns a little, too: a candidate that is never the best would otherwise never change.

    Dice is that of Milletari et al., V-Net (2016), with plain instead of squared sums and 1 added above and below the
    fraction bar; like the cross-entropy it is computed for each image on its own.

    Args:
        logits: float (B, M, h, w), M candidate masks for each prompt.
        predicted_iou: float (B, M), what the network says their IoUs are, 0..1.
        target: (B, h, w), the share of each position that the object covers, 0..1; bool will do.
        weight: (B, h, w), how much each position counts, 0 for void; bool will do.

    Returns:
        A scalar, the mean over the batch, in float32 also for logits of half precision. An image that is void
        everywhere counts 0 but for its predicted IoUs, whose true value is 0 then.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    if logits.ndim != 4:
        raise ValueError(f"logits must have shape (B, M, h, w), got {tuple(logits.shape)}")
    masks, pixels = logits.shape[:2], (len(logits), *logits.shape[2:])
    if predicted_iou.shape != masks:
        raise ValueError(f"predicted_iou must have shape {tuple(masks)}, got {tuple(predicted_iou.shape)}")
    for name, given in (("target", target), ("weight", weight)):
        if given.shape != pixels:
            raise ValueError(
                f"{name} must have shape {pixels}, the size of the logits, got {tuple(given.shape)}; resize it first"
            )
    logits, predicted_iou = logits.float(), predicted_iou.float()
    target, weight = target.to(logits.dtype), weight.to(logits.dtype)
    candidates = _mask_loss(logits, target[:, None], weight[:, None])
    of_masks = candidates.amin(1) + MEAN_WEIGHT * candidates.mean(1)
    iou_error = F.mse_loss(predicted_iou, true_iou(logits, target, weight))
    return of_masks.mean() + IOU_WEIGHT * iou_error


def _mask_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy + Dice of each candidate: (B, M, h, w) with (B, 1, h, w) -> (B, M)."""
    nll = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    cross_entropy = (weight * nll).sum((2, 3)) / weight.sum((2, 3)).clamp_min(1)
    predicted, true = weight * logits.sigmoid(), weight * target
    overlap, areas = (predicted * target).sum((2, 3)), predicted.sum((2, 3)) + true.sum((2, 3))
    return cross_entropy + 1 - (2 * overlap + 1) / (areas + 1)


def true_iou(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """IoU of each candidate, thresholded at logit 0, with the target, thresholded at 0.5: float (B, M).

    Arguments as for `prompt_loss`. No gradient comes back from it: masks that are thresholded have none. Where neither
    mask nor target has a pixel that counts it is 0.
    """
    predicted, truth, weight = logits > 0, target[:, None] > 0.5, weight[:, None]
    both = (weight * (predicted & truth)).sum((2, 3))
    either = (weight * (predicted | truth)).sum((2, 3))
    return both / either.clamp_min(1)


def step_loss(model: BaseMiniSAM, images: Tensor, prompts: "Prompts", rounds: int) -> Tensor:
    """The mean loss of `rounds` answers, with a click into the error of each but the last.

    Images are encoded once, for all prompts on them and for all rounds.

    Args:
        images: (B, 3, H, W), normalised.
        prompts: N of them, as many for each image, image by image. Clicks are added to them.
        rounds: how often the network answers.

    Returns:
        A scalar.
    """
    embedding = model.encode(images).repeat(len(prompts.masks) // len(images))
    target, weight = (torch.from_numpy(array).to(images.device).float() for array in (prompts.masks, ~prompts.void))
    loss = torch.zeros((), device=images.device)
    for left in reversed(range(rounds)):
        logits, iou = model.decode(embedding, *prompts.tensors(images.device))
        loss = loss + prompt_loss(logits, iou, target, weight) / rounds
        if left:
            best = logits.detach()[torch.arange(len(iou)), iou.argmax(1)]
            prompts.add_next_click((best > 0).cpu().numpy())
    return loss


@dataclass(frozen=True)
class PromptTask(Task):
    """A network that answers prompts learns the masks of objects.

    `step_loss` is a function of the network, images, prompts and a number of rounds, as the one above; the recipe's
    loss is not used. The data sets are `data.ObjectDataset`: their label maps number objects.
    """

    step_loss: StepLoss = step_loss
    prompts: int = 3  # objects asked for in each image; in one with fewer some are asked for twice
    kinds: tuple[float, float, float] = (0.45, 0.40, 0.15)  # shares of prompts that are a box, a click, several points
    points: tuple[int, int] = (3, 10)  # fewest and most of several points, half of them background
    box_jitter: float = 0.05  # of each edge, as a share of the box's side
    rounds: int = 2  # most answers to a prompt; each but the first follows a further click
    smallest: int = 100  # pixels: what is smaller after augmentation is not asked for
    eval_objects: int = 60  # objects of the validation set that are scored at an evaluation

    unused_parameters: ClassVar[bool] = True  # those of boxes, say, in a step that gives none

    def __post_init__(self) -> None:
        for name in ("prompts", "rounds", "smallest", "eval_objects"):
            require_count(self, name)
        shares = len(self.kinds) == 3 and min(self.kinds) >= 0 and abs(sum(self.kinds) - 1) < 1e-6
        require(self, "kinds", "three shares of box, click and points that add up to 1", shares)
        _require_points(self)
        require_number(self, "box_jitter")
        require(self, "step_loss", "a function of network, images, prompts and rounds", callable(self.step_loss))
        fingerprint(self.step_loss)  # raises ValueError where it cannot be told from another

    def build_loss(self, run: TrainingState) -> StepLoss:
        _require_no_train_scores(run)
        require(run.recipe, "best_metric", "'mean_iou' for prompts", run.recipe.best_metric == "mean_iou")
        require(run.recipe, "loss", "left as it is for prompts: PromptTask(step_loss=...)", run.recipe.loss == "ce")
        return self.step_loss

    def module(self, run: TrainingState) -> nn.Module:
        return _StepLoss(run.model, self.step_loss)

    def total(self, run: TrainingState, targets: Tensor) -> Tensor:
        """The number of images."""
        return torch.tensor(len(targets))

    def step(self, run: TrainingState, x: Tensor, y: Tensor, total: Tensor, rng: np.random.Generator) -> Tensor:
        """The mean loss of one to `rounds` answers."""
        # Each process draws for all parts of the micro-batch and takes its own: with accumulate=1, what one would.
        prompts = sample_prompts(run.accelerator.gather(y).cpu().numpy(), self, rng)
        prompts = prompts[run.own(self.prompts * len(x))]
        rounds = int(rng.integers(1, self.rounds + 1))
        with run.accelerator.autocast():
            return run.wrapped_model(x, prompts, rounds) * len(x) / total

    def columns(self, run: TrainingState) -> list[str]:
        return ["mean_iou", "box_iou", "click_iou"]

    def score(self, run: TrainingState) -> tuple[PromptScores, dict[str, float]]:
        """IoU of a box and of a click in the middle, whole images, no second look; `mean_iou` is their mean."""
        if "objects" not in run.kept:
            found = objects(run.val_set, min_side=1)
            run.kept["objects"] = found[:: -(-len(found) // self.eval_objects)]  # spread over the set
        asked = {"prompts": ("box", "centre_click"), "accelerator": run.accelerator}
        scored = evaluate_prompts(_predictor(run), run.kept["objects"], **asked)
        box, click = (scored.mean(kind).value for kind in scored.ious)
        return scored, {"mean_iou": (box + click) / 2, "box_iou": box, "click_iou": click}

    def predictions(self, run: TrainingState) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(image (3, H, W), target (H, W), prediction (H, W)): the first object of each image, asked for by its box."""
        predictor, shown = _predictor(run), []
        for index in comparison_indices(run.val_set, say=False):
            image, numbered = run.val_set[index]
            there = visible_objects(numbered, self.smallest)
            if there:
                mask = numbered == there[0]
                predictor.set_image(image.permute(1, 2, 0).numpy())
                found, _ = predictor.predict(box=box_from_mask(mask.numpy()))
                shown.append((image, mask.byte(), torch.from_numpy(found).byte()))
        return shown


def _require_points(task: "PromptTask | SemanticPromptTask") -> None:
    require(task, "points", "(fewest, most) with 1 <= fewest <= most", 1 <= task.points[0] <= task.points[1])


def _require_no_train_scores(run: TrainingState) -> None:
    require(run.recipe, "score_train", "0 for prompts", not run.recipe.score_train)


def _predictor(run: TrainingState) -> OneLook:
    """Sees the whole image as large as a crop is in training."""
    return OneLook(run.model, overview=run.recipe.augmentation.crop or OVERVIEW)


class _StepLoss(nn.Module):
    """A step's loss as the answer of a module, whatever it asks of the network."""

    def __init__(self, model: BaseMiniSAM, step_loss: StepLoss):
        super().__init__()
        self.model, self.step_loss = model, step_loss

    def forward(self, x: Tensor, prompts: "Prompts", rounds: int) -> Tensor:
        return self.step_loss(self.model, x, prompts, rounds)


@dataclass
class Prompts:
    """Prompts for N masks, three an image or so, growing click by click."""

    masks: np.ndarray  # bool (N, H, W)
    void: np.ndarray  # bool (N, H, W)
    clicks: list[list[tuple[np.ndarray, int]]] = field(default_factory=list)  # N lists of (point, label)
    boxes: list[np.ndarray] = field(default_factory=list)  # N boxes (4,), NaN for none

    def __getitem__(self, part: slice) -> "Prompts":
        """Prompts `part` of the N; masks and clicks are the same objects, not copies."""
        return Prompts(*(values[part] for values in vars(self).values()))

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Points (N, P, 2), labels (N, P), padded by -1, and boxes (N, 4), as the model takes them."""
        longest = max(map(len, self.clicks))
        points = np.zeros((len(self.clicks), longest, 2), dtype=np.float32)
        labels = np.full((len(self.clicks), longest), -1)
        for row, clicks in enumerate(self.clicks):
            for column, (point, label) in enumerate(clicks):
                points[row, column], labels[row, column] = point, label
        boxes = torch.from_numpy(np.stack(self.boxes)).to(device)
        return torch.from_numpy(points).to(device), torch.from_numpy(labels).to(device), boxes

    def add_next_click(self, predictions: np.ndarray, rng: np.random.Generator | None = None) -> None:
        """One more click for each mask, where the prediction, bool (N, H, W), is most wrong; see `next_click`."""
        for clicks, prediction, mask, void in zip(self.clicks, predictions, self.masks, self.void, strict=True):
            click = next_click(prediction, mask, void, rng)
            if click is not None:
                clicks.append(click)


def sample_prompts(object_maps: np.ndarray, task: PromptTask, rng: np.random.Generator) -> Prompts:
    """Prompts for `task.prompts` objects in each of the maps (B, H, W), uint8: 0 background, 255 void.

    A batch has either several points for every object, or a mix of boxes and clicks: what is padded to ten points
    costs as much as ten points. In a map without objects a click on the background asks for an empty mask.
    """
    maps = np.repeat(object_maps, task.prompts, axis=0)
    numbers = np.concatenate([_choose(one, task, rng) for one in object_maps])
    prompts = Prompts(maps == numbers[:, None, None], maps == IGNORE_INDEX)
    box, click, several = task.kinds
    many = rng.random() < several
    for mask, void in zip(prompts.masks, prompts.void, strict=True):
        clicks, corners = [], NO_BOX
        if not mask.any():
            clicks = [(random_click(~void, rng) if not void.all() else np.zeros(2, np.float32), 0)]
        elif many:
            count = int(rng.integers(task.points[0], task.points[1] + 1))
            points, labels = sample_points(mask, count, rng, void)
            clicks = list(zip(points, labels.tolist(), strict=True))
        elif rng.random() * (box + click) < box:
            corners = box_from_mask(mask, task.box_jitter, rng)
        else:
            point = centre_click(mask) if rng.random() < 0.3 else random_click(mask, rng)
            clicks = [(point, 1)]
        prompts.clicks.append(clicks)
        prompts.boxes.append(corners)
    return prompts


def _choose(object_map: np.ndarray, task: PromptTask, rng: np.random.Generator) -> np.ndarray:
    """Numbers of `task.prompts` objects of one map, as many different ones as there are; 254, of none, without."""
    there = rng.permutation(visible_objects(object_map, task.smallest) or [254])
    return np.resize(there, task.prompts)


@dataclass(frozen=True)
class SemanticPromptTask(Task):
    """A network that takes prompts learns class labels (the semantic target of the course); some images have points.

    The recipe's `loss` is as for other networks; a tenth of the squared error of the predicted IoU, that is of the mean
    over the classes of the image, is added to it.
    """

    prompted: float = 0.5  # share of the images that come with points; without them the network has to do at a test
    points: tuple[int, int] = (3, 10)  # fewest and most of them, half on objects and half beside
    freeze_image_encoder: bool = False  # all of the image encoder stays as it is: another head shares it

    unused_parameters: ClassVar[bool] = True  # nobody gives boxes

    def __post_init__(self) -> None:
        require(self, "prompted", "a share in 0..1", 0 <= self.prompted <= 1)
        _require_points(self)

    def build_loss(self, run: TrainingState) -> Loss | OwnLoss:
        _require_no_train_scores(run)
        return super().build_loss(run)

    def prepare(self, run: TrainingState) -> None:
        if self.freeze_image_encoder:
            run.model.image_encoder.eval().requires_grad_(False)

    def total(self, run: TrainingState, targets: Tensor) -> Tensor:
        """What the loss is divided by, and the number of images."""
        total = super().total(run, targets)
        return torch.cat([total, total.new_tensor([len(targets)])])

    def step(self, run: TrainingState, x: Tensor, y: Tensor, total: Tensor, rng: np.random.Generator) -> Tensor:
        drawn = self.draw_points(run.accelerator.gather(y).cpu().numpy(), rng)  # as in `PromptTask.step`
        points, labels = (t[run.own(len(x))].to(run.device) for t in drawn)
        with run.accelerator.autocast():
            logits, iou = run.wrapped_model(x, points, labels)
        logits = check_logits(logits, x, run.train_set.num_classes)
        iou_error = F.mse_loss(iou[:, 0].float(), mean_iou(logits, y)) * len(x) / total[-1]
        return run.loss(logits, y, total[:-1]) + IOU_WEIGHT * iou_error

    def draw_points(self, targets: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Points on and beside objects for a share of the maps (B, H, W): (B, N, 2); labels (B, N), -1 for none."""
        fewest, most = self.points
        points, labels = np.zeros((len(targets), most, 2), np.float32), np.full((len(targets), most), -1)
        for row, target in enumerate(targets):
            there = (target != 0) & (target != IGNORE_INDEX)
            if there.any() and rng.random() < self.prompted:
                n = int(rng.integers(fewest, most + 1))
                points[row, :n], labels[row, :n] = sample_points(there, n, rng, target == IGNORE_INDEX)
        return torch.from_numpy(points), torch.from_numpy(labels)

    def evaluate(self, run: TrainingState, dataset: SegmentationDataset) -> Evaluation:
        """As for other networks, without prompts."""
        options = {"device": run.device, "precision": run.precision, "accelerator": run.accelerator}
        return evaluate_semantic(run.model, dataset, "none", loss=run.loss, bands=(), per_image=False, **options)

    def predict(self, run: TrainingState, image: Tensor) -> Tensor:
        """As for other networks, without prompts."""
        with inference(run.model) as device:
            logits = compute_logits(lambda images: run.model(images)[0], image[None].to(device))
            return to_labels(logits, logits.shape[1], ["the image"])[0].cpu()


def mean_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean IoU over the classes that occur, of each image: logits (B, K, H, W), targets (B, H, W) -> float (B,)."""
    predictions = logits.detach().max(1).indices.to(torch.uint8)
    matrices = [confusion_matrix(p, t, logits.shape[1]) for p, t in zip(predictions, targets, strict=True)]
    values = [float(scores(matrix.cpu().numpy()).mean_iou) for matrix in matrices]
    return torch.nan_to_num(torch.tensor(values, device=logits.device))  # an image that is void everywhere has none
