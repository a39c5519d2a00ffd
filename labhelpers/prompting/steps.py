"""What a session keeps for each image: the steps taken on it, one for each click, box or clear."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Answer", "Picture", "Step"]


@dataclass(frozen=True)
class Answer:
    """What a predictor said to the prompts of one image."""

    mask: np.ndarray  # bool (H, W)
    predicted_iou: float
    latency_ms: float  # of the prediction alone: the image was encoded before
    class_name: str | None  # where the network knows classes


@dataclass(frozen=True)
class Step:
    """The prompts after one action, and the answers to them so far, by model: each is computed once."""

    clicks: tuple[tuple[float, float, int], ...] = ()  # x, y, label
    corners: tuple[float, float, float, float] | None = None
    refines: "Step | None" = None  # the step whose mask this one starts from
    answers: dict[str, Answer] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not self.clicks and self.corners is None

    @property
    def points(self) -> np.ndarray:
        return np.array([(x, y) for x, y, _ in self.clicks], dtype=np.float32).reshape(-1, 2)

    @property
    def labels(self) -> np.ndarray:
        return np.array([label for *_, label in self.clicks], dtype=np.int64)

    @property
    def box(self) -> np.ndarray | None:
        return None if self.corners is None else np.array(self.corners, dtype=np.float32)

    def prompts(self) -> dict[str, Any]:
        """For ``predict``, which takes None for what there is not."""
        points, labels = (self.points, self.labels) if self.clicks else (None, None)
        return {"points": points, "labels": labels, "box": self.box}


@dataclass
class Picture:
    """An image and its history: undo goes back in it, redo forth, and a new step forgets what was undone."""

    pixels: np.ndarray  # uint8 (H, W, 3)
    history: list[Step] = field(default_factory=lambda: [Step()])
    position: int = 0

    @property
    def step(self) -> Step:
        return self.history[self.position]

    def add(self, step: Step) -> None:
        self.history[self.position + 1 :] = [step]
        self.position += 1
