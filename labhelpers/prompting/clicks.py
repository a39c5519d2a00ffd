"""How many clicks a mask takes: a simulated user corrects the answer until it is right.

The user clicks in the middle of the largest error, sees the new mask, and clicks again: Xu et al., Deep Interactive
Object Selection, CVPR 2016, in the form of RITM (Sofiiuk et al., ICIP 2022). NoC@90 is the number of clicks to an IoU
of 0.90. Papers count an object that never gets there with 20 clicks, which hides how many those are: here they are
counted on their own as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from labhelpers.data.base import SegmentationDataset
from labhelpers.prompting.objects import ObjectRef, as_objects, by_image, clustered_bootstrap, clusters, mask_iou
from labhelpers.prompting.predictor import Predictor
from labhelpers.prompting.sampling import next_click
from labhelpers.prompting.scores import protocol

THRESHOLDS = (0.85, 0.90)
"""The IoUs at which papers stop counting: NoC@85 and NoC@90."""


@dataclass(frozen=True, eq=False)
class ClickCurve:
    """IoU after 1, 2, ... C clicks on each of N objects.

    Attributes:
        predictor: its name.
        protocol: under what conditions, in one sentence without a full stop.
        ious: float64 (N, C). Once nothing is wrong, nothing is clicked, and the IoU stays 1.
        predicted: float64 (N, C), the predictor's own estimates; NaN where nothing was asked.
        images: int64 (N,), the number of each object's image.
    """

    predictor: str
    protocol: str
    ious: np.ndarray = field(repr=False)
    predicted: np.ndarray = field(repr=False)
    images: np.ndarray = field(repr=False)

    @property
    def mean(self) -> np.ndarray:
        """Mean IoU after each click, (C,)."""
        return self.ious.mean(0)

    @property
    def band(self) -> np.ndarray:
        """Lower and upper end of the mean's 95 % interval over images, (2, C)."""
        intervals = [clustered_bootstrap(column, self.images) for column in self.ious.T]
        return np.array([[interval.low, interval.high] for interval in intervals]).T

    def noc(self, threshold: float) -> float:
        """Mean number of clicks to this IoU among the objects that reach it; NaN if none does. See `failures`."""
        clicks = self._clicks(threshold)
        reached = clicks[clicks > 0]
        return float(reached.mean()) if len(reached) else float("nan")

    def failures(self, threshold: float) -> int:
        """How many objects never reach this IoU."""
        return int((self._clicks(threshold) == 0).sum())

    def noc_capped(self, threshold: float) -> float:
        """NoC as papers have it: over all objects, a failure counting as many clicks as were allowed."""
        clicks = self._clicks(threshold)
        return float(np.where(clicks > 0, clicks, self.ious.shape[1]).mean())

    def _clicks(self, threshold: float) -> np.ndarray:
        """The first click after which each object's IoU is at least the threshold, int64 (N,); 0 if none."""
        if not 0 < threshold <= 1:
            raise ValueError(f"a threshold is an IoU in 0..1, got {threshold}; NoC@90 has the threshold 0.90.")
        reached = self.ious >= threshold
        return np.where(reached.any(1), reached.argmax(1) + 1, 0)

    def __str__(self) -> str:
        count, most = self.ious.shape
        lines = [f"{self.predictor}:"]
        for threshold in THRESHOLDS:
            failed, name = self.failures(threshold), f"NoC@{100 * threshold:.0f}"
            lines.append(
                f"{name}: {self.noc(threshold):.1f} clicks for the {count - failed} of {count} objects that get there, "
                f"{failed} never do; {self.noc_capped(threshold):.1f} if each of those counts {most}"
                if failed < count
                else f"{name}: none of {count} objects gets there in {most} clicks"
            )
        return "\n".join([*lines, f"({self.protocol})"])


def click_curve(
    predictor: Predictor,
    judged: SegmentationDataset | Sequence[ObjectRef],
    max_clicks: int = 20,
    seed: int | None = None,
) -> ClickCurve:
    """Let a simulated user click on each object until nothing is wrong, or `max_clicks` times.

    All clicks so far are given each time, and the previous mask as `mask_input`.

    Args:
        judged: a data set with instance masks (its objects of at least 32x32 pixels are taken), or a list of objects.
        seed: None clicks on the deepest point of the largest error, as papers do; a number draws a point at least half
            as deep, as a hand would.

    Raises:
        ValueError: `max_clicks` is below 1, no objects, or an answer that is no mask of the image's size.
    """
    if max_clicks < 1:
        raise ValueError(f"max_clicks must be at least 1, got {max_clicks}.")
    judged = as_objects(judged)
    ious, predicted = np.ones((len(judged), max_clicks)), np.full((len(judged), max_clicks), np.nan)
    for positions in by_image(judged):
        predictor.set_image(judged[positions[0]].image)
        for position in positions:
            item = judged[position]
            rng = None if seed is None else np.random.default_rng([seed, item.index, item.number])
            truth, ignore, points, labels = item.mask, item.ignore, [], []
            mask = np.zeros_like(truth)
            for count in range(max_clicks):
                click = next_click(mask, truth, ignore, rng)
                if click is None:  # nothing is wrong
                    break
                points.append(click[0])
                labels.append(click[1])
                mask, predicted[position, count] = predictor.predict(
                    points=np.stack(points), labels=np.array(labels, dtype=np.int64), mask_input=mask if count else None
                )
                ious[position, count] = mask_iou(mask, truth, ignore)
    drawn = "clicks drawn from the truth, each in the middle of the largest error"
    drawn += "" if seed is None else f" and moved (seed {seed})"
    return ClickCurve(predictor.name, protocol(judged, drawn), ious, predicted, clusters(judged))
