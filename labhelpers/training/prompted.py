"""Training a network that answers prompts: what differs from class labels in one step, its scores and its recipe.

A step draws objects from the label maps *after* augmentation, and prompts from these objects' masks: prompts can then
not fail to follow a flip or a crop. Part of the steps goes on as a user would: the network answers, a click falls into
the middle of its largest error, and it answers again (iterative training: Sofiiuk et al., RITM, ICIP 2022; Kirillov
et al., 2023, appendix A).
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from labhelpers.data.augment import to_input
from labhelpers.data.voc import comparison_indices, visible_objects
from labhelpers.models.mini_sam import Embedding, MiniSAM
from labhelpers.prompting import MiniSamPredictor, PromptScores, evaluate_prompts, objects
from labhelpers.prompting.sampling import box_from_mask, centre_click, next_click, random_click, sample_points
from labhelpers.training.losses import LossFunction
from labhelpers.training.prompt_loss import prompt_loss
from labhelpers.training.recipe import Recipe
from labhelpers.training.session import Session

KINDS = ("box", "click", "points")
NO_BOX = np.full(4, np.nan, dtype=np.float32)
LARGEST_LOGIT = 12.0  # of a mask that is handed back; beyond it nothing changes any more


@dataclass(frozen=True)
class PromptRecipe(Recipe):
    """How a network that answers prompts is trained: a :class:`Recipe`, and what is asked.

    ``loss`` is a function of logits (N, M, h, w), predicted IoUs (N, M), target and weight (N, h, w), as
    :func:`prompt_loss`. The data sets are ``data.ObjectDataset``: their label maps number objects.
    """

    loss: LossFunction = prompt_loss
    prompts: int = 3  # objects asked for in each image; in one with fewer some are asked for twice
    kinds: tuple[float, float, float] = (0.45, 0.40, 0.15)  # shares of prompts that are a box, a click, several points
    points: tuple[int, int] = (3, 10)  # fewest and most of several points, half of them background
    box_jitter: float = 0.05  # of each edge, as a share of the box's side
    rounds: int = 2  # most answers to a prompt; each but the first follows a further click
    smallest: int = 100  # pixels: what is smaller after augmentation is not asked for
    eval_objects: int = 60  # objects of the validation set that are scored at an evaluation

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "rounds", "smallest", "eval_objects"):
            self._require(name, "a whole number >= 1", isinstance(getattr(self, name), int) and getattr(self, name) > 0)
        shares = len(self.kinds) == 3 and min(self.kinds) >= 0 and abs(sum(self.kinds) - 1) < 1e-6
        self._require("kinds", "three shares of box, click and points that add up to 1", shares)
        self._require("points", "(fewest, most) with 1 <= fewest <= most", 1 <= self.points[0] <= self.points[1])
        self._require("box_jitter", "a number >= 0", self.box_jitter >= 0)
        self._require("best_metric", "'mean_iou' for prompts", self.best_metric == "mean_iou")
        self._require("score_train", "0 for prompts", not self.score_train)


@dataclass
class Prompts:
    """Prompts for N masks, three a image or so, growing click by click."""

    masks: np.ndarray  # bool (N, H, W)
    void: np.ndarray  # bool (N, H, W)
    clicks: list[list[tuple[np.ndarray, int]]] = field(default_factory=list)  # N lists of (point, label)
    boxes: list[np.ndarray] = field(default_factory=list)  # N boxes (4,), NaN for none

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Points (N, P, 2), labels (N, P), padded by -1, and boxes (N, 4), as the model takes them."""
        longest = max(map(len, self.clicks))
        points = np.zeros((len(self.clicks), longest, 2), dtype=np.float32)
        labels = np.full((len(self.clicks), longest), -1)
        for row, clicks in enumerate(self.clicks):
            for column, (point, label) in enumerate(clicks):
                points[row, column], labels[row, column] = point, label
        arrays = (points, labels, np.stack(self.boxes))
        return tuple(torch.from_numpy(array).to(device) for array in arrays)

    def add_next_click(self, predictions: np.ndarray, rng: np.random.Generator) -> None:
        """One more click for each mask, where the prediction, bool (N, H, W), is most wrong."""
        for clicks, prediction, mask, void in zip(self.clicks, predictions, self.masks, self.void, strict=True):
            click = next_click(prediction, mask, void, rng)
            if click is not None:
                clicks.append(click)


def sample_prompts(object_maps: np.ndarray, recipe: PromptRecipe, rng: np.random.Generator) -> Prompts:
    """Prompts for ``recipe.prompts`` objects in each of the maps (B, H, W), uint8: 0 background, 255 void.

    A batch has either several points for every object, or a mix of boxes and clicks: what is padded to ten points
    costs as much as ten points. In a map without objects a click on the background asks for an empty mask.
    """
    maps = np.repeat(object_maps, recipe.prompts, axis=0)
    numbers = np.concatenate([_choose(one, recipe, rng) for one in object_maps])
    prompts = Prompts(maps == numbers[:, None, None], maps == 255)
    box, click, several = recipe.kinds
    many = rng.random() < several
    for mask, void in zip(prompts.masks, prompts.void, strict=True):
        clicks, corners = [], NO_BOX
        if not mask.any():
            clicks = [(random_click(~void, rng) if not void.all() else np.zeros(2, np.float32), 0)]
        elif many:
            count = int(rng.integers(recipe.points[0], recipe.points[1] + 1))
            points, labels = sample_points(mask, count, rng, void)
            clicks = list(zip(points, labels.tolist(), strict=True))
        elif rng.random() * (box + click) < box:
            corners = box_from_mask(mask, recipe.box_jitter, rng)
        else:
            point = centre_click(mask) if rng.random() < 0.3 else random_click(mask, rng)
            clicks = [(point, 1)]
        prompts.clicks.append(clicks)
        prompts.boxes.append(corners)
    return prompts


def _choose(object_map: np.ndarray, recipe: PromptRecipe, rng: np.random.Generator) -> np.ndarray:
    """Numbers of ``recipe.prompts`` objects of one map, as many different ones as there are; 254, of none, without."""
    there = rng.permutation(visible_objects(object_map, recipe.smallest) or [254])
    return np.resize(there, recipe.prompts)


class PromptedSession(Session):
    """A :class:`Session` whose step asks and whose evaluation counts the IoU of boxes and clicks."""

    recipe: PromptRecipe
    model: MiniSAM

    def build_loss(self) -> LossFunction:
        if self.accelerator.num_processes > 1:
            raise ValueError("prompts are trained by one process; start without accelerate launch")
        return self.recipe.loss

    def columns(self) -> list[str]:
        return ["mean_iou", "box_iou", "click_iou"]

    def score(self) -> tuple[PromptScores, dict[str, float]]:
        """IoU of a box and of a click in the middle, whole images, no second look; ``mean_iou`` is their mean."""
        scores = evaluate_prompts(self._predictor(), self._asked(), prompts=("box", "centre_click"))
        box, click = (scores.mean(kind).value for kind in scores.ious)
        return scores, {"mean_iou": (box + click) / 2, "box_iou": box, "click_iou": click}

    def predictions(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(image (3, H, W), target (H, W), prediction (H, W)): the first object of each image, asked for by its box."""
        predictor, shown = self._predictor(), []
        for index in comparison_indices(self.val_set, say=False):
            image, numbered = self.val_set[index]
            there = visible_objects(numbered, self.recipe.smallest)
            if there:
                mask = numbered == there[0]
                predictor.set_image(image.permute(1, 2, 0).numpy())
                found, _ = predictor.predict(box=box_from_mask(mask.numpy()))
                shown.append((image, mask.byte(), torch.from_numpy(found).byte()))
        return shown

    def _predictor(self) -> MiniSamPredictor:
        """Sees the whole image as large as a crop is in training."""
        side = self.recipe.augmentation.crop
        return MiniSamPredictor(self.model, zoom=False, **({"overview": side} if side else {}))

    def _asked(self) -> list:
        if not hasattr(self, "_objects"):
            found = objects(self.val_set, min_side=1)
            step = -(-len(found) // self.recipe.eval_objects)  # spread over the set
            self._objects = found[::step]
        return self._objects


def ask_and_learn(run: PromptedSession, images: Tensor, targets: Tensor, colour: Tensor) -> float:
    """Gradients of the batch's loss, one micro-batch after another; returns that loss. ``targets`` are object maps."""
    recipe, size = run.recipe, run.micro_batch
    rng = np.random.default_rng(np.random.SeedSequence((recipe.seed, run.step), spawn_key=(1,)))
    loss_sum = 0.0
    for x, y, c in zip(images.split(size), targets.split(size), colour.split(size), strict=True):
        prompts = sample_prompts(y.numpy(), recipe, rng)
        with run.accelerator.autocast():
            embedding = run.model.encode(run.layout(to_input(x.to(run.device), c.to(run.device))))
        loss = _converse(run, embedding.repeat(recipe.prompts), prompts, rng) * len(x) / len(images)
        run.accelerator.backward(loss)
        loss_sum += loss.item()
    return loss_sum


def _converse(run: PromptedSession, embedding: Embedding, prompts: Prompts, rng: np.random.Generator) -> Tensor:
    """The mean loss of one to ``recipe.rounds`` answers, with a click into the error of each but the last."""
    target, valid = (_quarter(array, run.device) for array in (prompts.masks, ~prompts.void))
    rounds = int(rng.integers(1, run.recipe.rounds + 1))
    loss, earlier = 0.0, None
    for left in reversed(range(rounds)):
        with run.accelerator.autocast():
            logits, iou = run.model.decode(embedding, *prompts.tensors(run.device), earlier, full_size=False)
        loss = loss + run.loss(logits, iou, target, valid) / rounds
        if left:
            earlier = logits.detach()[torch.arange(len(iou)), iou.argmax(1)][:, None].float()
            masks = MiniSAM.enlarge(earlier, embedding.size)[:, 0] > 0
            prompts.add_next_click(masks.cpu().numpy(), rng)
            earlier = earlier.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
    return loss


def _quarter(masks: np.ndarray, device: torch.device) -> Tensor:
    """Bool (N, H, W) -> the share of each position of stride 4 that is covered, float (N, 2h, 2w)."""
    share = torch.from_numpy(masks).to(device, torch.float32)[:, None]
    bottom, right = (-side % 8 for side in masks.shape[1:])  # the logits cover whole positions of stride 8
    return functional.avg_pool2d(functional.pad(share, (0, right, 0, bottom)), 4)[:, 0]
