"""The mean IoU of predictors that know no classes, with who named their masks on the score.

Both ways here end in one class map an image, which the evaluator of all labs scores as it scores a network's.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from labhelpers.data.base import SegmentationDataset
from labhelpers.evaluation.evaluator import Evaluation, evaluate, predict
from labhelpers.evaluation.instances import objects
from labhelpers.evaluation.labelled import by_overlap, by_vote, paint
from labhelpers.prompting.everything import FoundMasks, segment_everything
from labhelpers.prompting.predictor import Predictor
from labhelpers.prompting.sampling import box_from_mask

TRUE_BOXES = "the box of every true object, whose class the answer gets"


def evaluate_prompted_classes(predictor: Predictor, dataset: SegmentationDataset, **options) -> Evaluation:
    """Ask for every true object with its box, name the answer as the truth does, and score the class map.

    Where the objects are and what they are is told; only their outlines are the predictor's. So the score says how good
    the outlines are, in the unit of semantic segmentation, and cannot be compared with a network that finds and names
    objects itself: the protocol keeps the two apart. Answers that overlap are put on top of each other as in `paint`.

    Args:
        dataset: one with instance masks; all of its objects are asked for, however small.
        options: `bands` and `per_image` of `evaluate`.

    Raises:
        FileNotFoundError: the data set has no instance masks.
        ValueError: what `evaluate` raises, or there is no object at all.
    """
    judged = objects(dataset, min_side=1)

    def maps() -> Iterator[np.ndarray]:
        for index in range(len(dataset)):
            items = [item for item in judged if item.index == index]
            answers = _ask(predictor, dataset.load_image(index), [box_from_mask(item.mask) for item in items])
            yield paint(*answers, np.array([item.label for item in items], dtype=np.int64))

    return _prompted(_evaluate_maps(maps(), predictor, dataset, options), TRUE_BOXES)


def evaluate_everything(
    predictor: Predictor,
    dataset: SegmentationDataset,
    voter: nn.Module | None = None,
    voter_name: str = "",
    segment: Callable[[Predictor, np.ndarray], FoundMasks] = segment_everything,
    **options,
) -> Evaluation:
    """Score all masks found in each image, named by the truth or by a semantic network.

    Args:
        voter: a semantic network, float (1, 3, H, W) to logits, whose prediction names the masks (`by_vote`); without
            one the truth does (`by_overlap`), as an oracle.
        voter_name: the network's name in the protocol: other voters, other scores.
        segment: how the masks are found; `partial(segment_everything, grid=8)` asks less often. What it says about
            itself stands in the protocol.
        options: `bands` and `per_image` of `evaluate`.

    Raises:
        ValueError: a voter without a name, or what `evaluate` and the naming raise.
    """
    if (voter is None) != (voter_name == ""):
        raise ValueError("voter and voter_name belong together: give both, or neither for names from the truth.")

    how = ""

    def maps() -> Iterator[np.ndarray]:
        nonlocal how
        for index in range(len(dataset)):
            image = dataset.load_image(index)
            found = segment(predictor, _picture(image))
            how = found.how
            if voter is None:
                yield by_overlap(found.masks, found.ious, dataset.load_target(index).numpy(), dataset.ignore_index)
            else:
                yield by_vote(found.masks, found.ious, predict(voter, image).numpy())

    evaluation = _evaluate_maps(maps(), predictor, dataset, options)
    named = "the true class it overlaps most (oracle)" if voter is None else f"the class {voter_name} votes for"
    return _prompted(evaluation, f"{how}; each mask gets {named}")


def _ask(predictor: Predictor, image: torch.Tensor, boxes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The answers to boxes: masks bool (N, H, W) and predicted IoUs (N,)."""
    if not boxes:
        return np.zeros((0, *image.shape[1:]), dtype=bool), np.zeros(0)
    predictor.set_image(_picture(image))
    masks, ious = zip(*(predictor.predict(box=box) for box in boxes), strict=True)
    return np.stack(masks), np.array(ious)


def _picture(image: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _prompted(evaluation: Evaluation, prompts: str) -> Evaluation:
    return replace(evaluation, protocol=replace(evaluation.protocol, prompts=prompts))


def _evaluate_maps(
    maps: Iterator[np.ndarray], predictor: Predictor, dataset: SegmentationDataset, options: dict
) -> Evaluation:
    """Score one label map (H, W) an image, in the set's order."""
    return evaluate(_Given(maps, dataset.num_classes, predictor), dataset, batch_size=1, **options)


class _Given(nn.Module):
    """Answers each image with the next of the label maps, as logits that are 1 for its label and 0 for the others."""

    def __init__(self, maps: Iterator[np.ndarray], num_classes: int, predictor: Predictor):
        super().__init__()
        self.maps, self.num_classes = maps, num_classes
        self.model = predictor.model  # whose device stands in the protocol

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(False):  # predictors keep embeddings, which may be trained on later
            labels = torch.from_numpy(next(self.maps)).long().to(images.device)
        return nn.functional.one_hot(labels, self.num_classes).permute(2, 0, 1)[None].float()
