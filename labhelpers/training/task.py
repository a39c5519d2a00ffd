"""What a run learns, as the loop asks for it; class labels here, masks and labels for prompts in `prompting.task`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from labhelpers.data.base import SegmentationDataset
from labhelpers.data.voc import comparison_indices
from labhelpers.evaluation import Evaluation, evaluate, predict
from labhelpers.training.losses import build_loss
from labhelpers.training.recipe import SCORES, identity

if TYPE_CHECKING:
    from labhelpers.training.loop import TrainingState


@dataclass(frozen=True)
class Task:
    """What is learned: here class labels, by the loss that the recipe names.

    Another task inherits from this one and answers what differs: which loss, what one step does with a part of a batch,
    what is scored, and the log's columns. Its fields, if it has any, are part of a run's key.
    """

    def identity(self) -> dict[str, Any]:
        """What decides about the result, as JSON: the task's name and fields."""
        return {"task": type(self).__name__, **identity(self)}

    def build_loss(self, run: "TrainingState") -> Any:
        """Called once at the beginning; kept as `run.loss`.

        Raises:
            ValueError: the recipe is one that this task cannot follow.
        """
        weights: Any = run.recipe.class_weights
        if isinstance(weights, str):
            from labhelpers.data.statistics import class_statistics, class_weights

            weights = class_weights(class_statistics(run.train_set), weights)
        return build_loss(run.recipe.loss, weights, run.train_set.ignore_index)

    def prepare(self, run: "TrainingState") -> None:
        """Called at the beginning of each step, when the model is in train mode."""

    def total(self, run: "TrainingState", targets: Tensor) -> Tensor:
        """What the loss of a batch is divided by, for `step`; must add up over parts of a batch."""
        return run.loss.total(targets)

    def step(self, run: "TrainingState", x: Tensor, y: Tensor, total: Tensor, rng: np.random.Generator) -> Tensor:
        """The share of a part of a batch in the batch's loss.

        Args:
            x: float (B, 3, H, W), normalised, on the device.
            y: uint8 (B, H, W), on the device.
            total: as the method of that name returned for the whole batch, all processes' parts added.
            rng: for what is drawn at random; the same for all parts of a batch, a function of seed and step.
        """
        with run.accelerator.autocast():
            logits = run.wrapped_model(x)
        return run.loss(logits, y, total)

    def columns(self, run: "TrainingState") -> list[str]:
        """The log's columns after step, loss and learning rate."""
        train = ["train_loss", "train_mean_iou"] if run.train_sample else []
        return ["val_loss", *SCORES, *train, *(f"iou_{name}" for name in run.val_set.class_names)]

    def score(self, run: "TrainingState") -> tuple[Any, dict[str, float]]:
        """The validation set's evaluation, each process its share of it, and a value for each of the columns."""
        evaluation = self.evaluate(run, run.val_set)
        scores = evaluation.scores
        row: dict[str, Any] = {"val_loss": evaluation.loss, **{name: float(getattr(scores, name)) for name in SCORES}}
        row |= {f"iou_{n}": float(v) for n, v in zip(run.val_set.class_names, scores.class_iou, strict=True)}
        if run.train_sample:
            train = self.evaluate(run, run.train_sample)
            row |= {"train_loss": train.loss, "train_mean_iou": float(train.scores.mean_iou)}
        return evaluation, row

    def evaluate(self, run: "TrainingState", dataset: SegmentationDataset) -> Evaluation:
        """Scores and loss of the model as it is."""
        return evaluate(
            run.model,
            dataset,
            batch_size=run.recipe.batch_size,
            device=run.device,
            precision=run.precision,
            bands=(),
            per_image=False,
            loss=run.loss,
            accelerator=run.accelerator,
        )

    def predictions(self, run: "TrainingState") -> list[tuple[Tensor, Tensor, Tensor]]:
        """(image (3, H, W), target (H, W), prediction (H, W)), uint8, of the images shown in every comparison."""
        pairs = [run.val_set[index] for index in comparison_indices(run.val_set, say=False)]
        return [(image, target, self.predict(run, image)) for image, target in pairs]

    def predict(self, run: "TrainingState", image: Tensor) -> Tensor:
        """Class labels of one image, uint8 (3, H, W) -> uint8 (H, W)."""
        return predict(run.model, image)


CLASS_LABELS = Task()
