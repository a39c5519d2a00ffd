"""Training the head for all classes of a network that also takes prompts (the semantic target of the course)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from labhelpers.data.augment import to_input
from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset
from labhelpers.data.voc import comparison_indices
from labhelpers.evaluation import Evaluation, inference
from labhelpers.evaluation.confusion import confusion_matrix, scores, to_labels
from labhelpers.models.mini_sam import MiniSAM
from labhelpers.prompting import evaluate_semantic
from labhelpers.prompting.sampling import sample_points
from labhelpers.training.losses import Loss, OwnLoss
from labhelpers.training.prompt_loss import IOU_WEIGHT
from labhelpers.training.recipe import Recipe
from labhelpers.training.session import Session


@dataclass(frozen=True)
class SemanticPromptRecipe(Recipe):
    """A :class:`Recipe` for class labels in which some of the images come with points.

    ``loss`` is as for other networks; a tenth of the squared error of the predicted IoU, that is of the mean over the
    classes of the image, is added to it.
    """

    loss: str = "ce+dice"
    prompted: float = 0.5  # share of the images that come with points; without them the network has to do at a test
    points: tuple[int, int] = (3, 10)  # fewest and most of them, half on objects and half beside
    freeze_image_encoder: bool = False  # all of the image encoder stays as it is: another head shares it

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("prompted", "a share in 0..1", 0 <= self.prompted <= 1)
        self._require("points", "(fewest, most) with 1 <= fewest <= most", 1 <= self.points[0] <= self.points[1])
        self._require("score_train", "0 for prompts", not self.score_train)


class SemanticPromptSession(Session):
    """A :class:`Session` for a network that takes prompts and returns class logits and an IoU."""

    recipe: SemanticPromptRecipe
    model: MiniSAM

    def prepare_step(self) -> None:
        super().prepare_step()
        if self.recipe.freeze_image_encoder:
            self.model.image_encoder.eval()
            self.model.image_encoder.requires_grad_(False)

    def build_loss(self) -> Loss | OwnLoss:
        if self.accelerator.num_processes > 1:
            raise ValueError("prompts are trained by one process; start without accelerate launch")
        return super().build_loss()

    def predictions(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """As :meth:`Session.predictions`, without prompts."""
        with inference(self.model) as device:
            shown = []
            for index in comparison_indices(self.val_set, say=False):
                image, target = self.val_set[index]
                logits, _ = self.model(image[None].to(device))
                shown.append((image, target, to_labels(logits, self.model.num_classes)[0].cpu()))
        return shown

    def _score(self, dataset: SegmentationDataset) -> Evaluation:
        options = {"device": self.device, "precision": self.precision, "bands": (), "per_image": False}
        return evaluate_semantic(self.model, dataset, "none", loss=self.loss, **options)


def learn_classes(run: SemanticPromptSession, images: Tensor, targets: Tensor, colour: Tensor) -> float:
    """Gradients of the batch's loss, one micro-batch after another; returns that loss."""
    recipe, size = run.recipe, run.micro_batch
    rng = np.random.default_rng(np.random.SeedSequence((recipe.seed, run.step), spawn_key=(1,)))
    images, targets, colour = (t.to(run.device, non_blocking=True) for t in (images, targets, colour))
    total, loss_sum = run.loss.total(targets), 0.0
    for x, y, c in zip(images.split(size), targets.split(size), colour.split(size), strict=True):
        points, labels = (t.to(run.device) for t in draw_points(y.cpu().numpy(), recipe, rng))
        with run.accelerator.autocast():
            logits, iou = run.model(run.layout(to_input(x, c)), points, labels)
        iou_error = functional.mse_loss(iou[:, 0].float(), mean_iou(logits, y)) * len(x) / len(images)
        loss = run.loss(logits, y, total) + IOU_WEIGHT * iou_error
        run.accelerator.backward(loss)
        loss_sum += loss.item()
    return loss_sum


def draw_points(targets: np.ndarray, recipe: SemanticPromptRecipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Points on and beside objects for a share of the maps (B, H, W): (B, N, 2), and labels (B, N), -1 for none."""
    most = recipe.points[1]
    points, labels = np.zeros((len(targets), most, 2), np.float32), np.full((len(targets), most), -1)
    for row, target in enumerate(targets):
        there = (target != 0) & (target != IGNORE_INDEX)
        if there.any() and rng.random() < recipe.prompted:
            n = int(rng.integers(recipe.points[0], most + 1))
            points[row, :n], labels[row, :n] = sample_points(there, n, rng, target == IGNORE_INDEX)
    return torch.from_numpy(points), torch.from_numpy(labels)


def mean_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean IoU over the classes that occur, of each image: logits (B, K, H, W), targets (B, H, W) -> float (B,)."""
    predictions = to_labels(logits.detach(), logits.shape[1])
    matrices = [confusion_matrix(p, t, logits.shape[1]) for p, t in zip(predictions, targets, strict=True)]
    values = [float(scores(matrix.cpu().numpy()).mean_iou) for matrix in matrices]
    return torch.nan_to_num(torch.tensor(values, device=logits.device))  # an image that is void everywhere has none
