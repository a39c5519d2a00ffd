"""A prompting session without a browser: clicks and a box on images, undone and redone, recorded and replayed.

Coordinates are pixel indices (x, y) of the current image, the centre of the first pixel being (0, 0); boxes
(x0, y0, x1, y1) hold the extreme pixel indices, inclusive.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from labhelpers.prompting import recording
from labhelpers.prompting.predictor import Predictor
from labhelpers.prompting.steps import Answer, Picture, Step

__all__ = ["PromptSession"]


class PromptSession:
    """Prompts on one or several images, and the mask that a model gives for them.

    Every image keeps its prompts, and its own undo and redo. Undo takes back the last click, box or clear and brings
    back exactly the mask that was there before. A click refines: the mask before it is one of the model's inputs. A
    new box (which replaces the one before) and the first click after a clear start from no mask.

    Args:
        predictor: one, or several by name; see :class:`labhelpers.prompting.Predictor`.
        images: uint8 (H, W, 3), RGB: one, or several by name. They are copied.

    Raises:
        ValueError: no predictor, no image, or an image of another kind. An action that raises changes nothing.
    """

    def __init__(self, predictor: Predictor | Mapping[str, Predictor], images: np.ndarray | Mapping[str, np.ndarray]):
        self.predictors = dict(predictor) if isinstance(predictor, Mapping) else {predictor.name: predictor}
        if not self.predictors:
            raise ValueError("PromptSession needs at least one predictor, got an empty mapping")
        self._pictures: dict[str, Picture] = {}
        self._observers: list[Callable[[], None]] = []
        for name, pixels in (images if isinstance(images, Mapping) else {"image": images}).items():
            self.add_image(name, pixels)
        if not self._pictures:
            raise ValueError("PromptSession needs at least one image, got an empty mapping")
        self.model, self.image_name = next(iter(self.predictors)), next(iter(self._pictures))
        self._log: list[dict[str, Any]] = [  # every action since the session began, what was undone too
            {"action": "switch_model", "name": self.model},
            {"action": "switch_image", "name": self.image_name},
        ]
        self._encode(self.model, self.image_name)

    # What there is

    @property
    def image_names(self) -> list[str]:
        return list(self._pictures)

    @property
    def image(self) -> np.ndarray:
        """The current image, uint8 (H, W, 3), read-only."""
        return self.pixels(self.image_name)

    @property
    def points(self) -> np.ndarray:
        """float32 (N, 2), in the order of the clicks."""
        return self._picture.step.points

    @property
    def labels(self) -> np.ndarray:
        """int64 (N,): 1 foreground, 0 background."""
        return self._picture.step.labels

    @property
    def box(self) -> np.ndarray | None:
        """float32 (4,), or None."""
        return self._picture.step.box

    @property
    def answer(self) -> Answer | None:
        """The current model's answer to the prompts of the current image; None without prompts."""
        return self._answer(self.model, self.image_name, self._picture.step)

    @property
    def mask(self) -> np.ndarray:
        """bool (H, W), all False without prompts."""
        return self.answer.mask if self.answer else np.zeros(self.image.shape[:2], dtype=bool)

    @property
    def predicted_iou(self) -> float | None:
        return self.answer.predicted_iou if self.answer else None

    @property
    def latency_ms(self) -> float | None:
        return self.answer.latency_ms if self.answer else None

    @property
    def class_name(self) -> str | None:
        return self.answer.class_name if self.answer else None

    @property
    def can_undo(self) -> bool:
        return self._picture.position > 0

    @property
    def can_redo(self) -> bool:
        return self._picture.position < len(self._picture.history) - 1

    def pixels(self, name: str) -> np.ndarray:
        """The image of that name, as :attr:`image`; raises ValueError if it is unknown."""
        _known(name, self._pictures, "image")
        view = self._pictures[name].pixels.view()
        view.setflags(write=False)
        return view

    def answers(self) -> dict[str, Answer | None]:
        """The current model's answer for every image by name, None where there are no prompts."""
        return {name: self._answer(self.model, name, picture.step) for name, picture in self._pictures.items()}

    def prompts(self) -> dict[str, dict[str, Any]]:
        """The prompts of every image by name: {"points": [[x, y, label], ...], "box": [x0, y0, x1, y1] or None}."""
        return {
            name: {"points": [list(click) for click in p.step.clicks], "box": p.step.corners and list(p.step.corners)}
            for name, p in self._pictures.items()
        }

    # What one can do

    def add_point(self, x: float, y: float, label: int = 1) -> None:
        """Click on pixel (x, y): label 1 says "this belongs to the object", 0 "this does not".

        Raises:
            ValueError: the point lies outside the image, or the label is neither 1 nor 0.
        """
        x, y = self._inside((x, y), "point")
        if label not in (0, 1):
            raise ValueError(f"label must be 1 (foreground) or 0 (background), got {label!r}")
        now = self._picture.step
        step = Step((*now.clicks, (x, y, int(label))), now.corners, None if now.is_empty else now)
        self._do(step, "add_point", x=x, y=y, label=int(label))

    def add_box(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Draw a box around the object, in place of the one before.

        Raises:
            ValueError: a corner lies outside the image, or the corners are not in order.
        """
        x0, y0, x1, y1 = self._inside((x0, y0, x1, y1), "box")
        if x0 > x1 or y0 > y1:
            raise ValueError(
                f"a box is (left, top, right, bottom), got {x0:g}, {y0:g}, {x1:g}, {y1:g}: sort its corners"
            )
        self._do(Step(self._picture.step.clicks, (x0, y0, x1, y1)), "add_box", x0=x0, y0=y0, x1=x1, y1=y1)

    def clear(self) -> None:
        """Take all prompts off the image; undo brings them back. Without prompts it does nothing."""
        if not self._picture.step.is_empty:
            self._do(Step(), "clear")

    def undo(self) -> bool:
        """Take back the last click, box or clear on this image; returns whether there was one."""
        return self.can_undo and self._move(-1, "undo")

    def redo(self) -> bool:
        """Do again what was undone last; returns whether there was something. A new click or box forgets it."""
        return self.can_redo and self._move(1, "redo")

    def switch_image(self, name: str) -> None:
        """Go to another image; the prompts of this one stay for the way back. Raises ValueError if it is unknown."""
        _known(name, self._pictures, "image")
        if name == self.image_name:
            return
        self._answer(self.model, name, self._pictures[name].step)
        self._encode(self.model, name)
        self.image_name = name
        self._changed("switch_image", name=name)

    def switch_model(self, name: str) -> None:
        """Ask another model the same; raises ValueError if it is unknown."""
        _known(name, self.predictors, "model")
        if name == self.model:
            return
        self._answer(name, self.image_name, self._picture.step)
        self._encode(name, self.image_name)
        self.model = name
        self._changed("switch_model", name=name)

    def add_image(self, name: str, pixels: np.ndarray) -> None:
        """Take one more image, uint8 (H, W, 3), without switching to it.

        Raises:
            ValueError: the name is taken, or the array is no such image.
        """
        if name in self._pictures:
            raise ValueError(f"there is an image {name!r} already: give the new one another name")
        self._pictures[name] = Picture(_checked(name, pixels))
        self._notify()

    def observe(self, callback: Callable[[], None]) -> None:
        """Have ``callback()`` called after every change: a view shows then what there is."""
        self._observers.append(callback)

    # What remains of it

    @property
    def actions(self) -> list[dict[str, Any]]:
        """Every action since the session began, what was undone too: {"action": "add_point", "x": 3.0, ...}."""
        return list(self._log)

    def to_json(self) -> str:
        """All actions, and the prompts and answers that remain; see ``recording``."""
        return recording.to_json(self)

    @classmethod
    def from_json(
        cls, text: str, predictor: Predictor | Mapping[str, Predictor], images: np.ndarray | Mapping[str, np.ndarray]
    ) -> "PromptSession":
        """A session as it was when ``to_json`` recorded it; raises ValueError as :meth:`replay` does."""
        session = cls(predictor, images)
        session.replay(text)
        return session

    def replay(self, text: str) -> list[Answer | None]:
        """Do every recorded action again, on its own images and models; returns the answer after each.

        To ask another model, give it under the recorded name: ``PromptSession({"mini_sam": sam}, images)``.

        Raises:
            ValueError: the text is no recording, or names an image or a model that is not here, or an image's pixels
                are not those recorded, or something was done here before.
        """
        return recording.replay(self, text)

    def save(self, folder: str | Path) -> Path:
        """Write ``session.json`` and, for every image with prompts, its mask as PNG (0 and 255); returns the folder.

        The masks are the current model's; ``session.json`` names their files.
        """
        return recording.save(self, folder)

    # How it works

    @property
    def _picture(self) -> Picture:
        return self._pictures[self.image_name]

    def _do(self, step: Step, action: str, **arguments: Any) -> None:
        self._answer(self.model, self.image_name, step)  # first, so that a click that the model refuses is no click
        self._picture.add(step)
        self._changed(action, **arguments)

    def _move(self, by: int, action: str) -> bool:
        picture = self._picture
        self._answer(self.model, self.image_name, picture.history[picture.position + by])
        picture.position += by
        self._changed(action)
        return True

    def _changed(self, action: str, **arguments: Any) -> None:
        self._log.append({"action": action, **arguments})
        self._notify()

    def _notify(self) -> None:
        for callback in self._observers:
            callback()

    def _answer(self, model: str, image: str, step: Step) -> Answer | None:
        if step.is_empty:
            return None
        if model not in step.answers:
            before = self._answer(model, image, step.refines) if step.refines else None
            earlier = before.mask.copy() if before and before.mask.any() else None  # an empty mask refines nothing
            predictor = self._encode(model, image)
            start = time.perf_counter()
            mask, iou = predictor.predict(**step.prompts(), mask_input=earlier)
            milliseconds = 1000 * (time.perf_counter() - start)
            mask = mask.copy()  # a predictor may use its array again
            mask.setflags(write=False)
            step.answers[model] = Answer(mask, float(iou), milliseconds, predictor.class_name)
        return step.answers[model]

    def _encode(self, model: str, image: str) -> Predictor:
        """The model, with this image set. Others may have set another one since: sessions may share a predictor."""
        predictor, pixels = self.predictors[model], self._pictures[image].pixels
        if getattr(predictor, "image", None) is not pixels:  # one that does not say what it holds is told every time
            predictor.set_image(pixels)
        return predictor

    def _inside(self, values: tuple[float, ...], what: str) -> tuple[float, ...]:
        height, width = self.image.shape[:2]
        values = tuple(float(value) for value in values)
        for axis, value in zip("xyxy", values, strict=False):
            last = (width if axis == "x" else height) - 1
            if not (math.isfinite(value) and 0 <= value <= last):
                raise ValueError(
                    f"the {what}'s {axis} = {value:g} lies outside the image {self.image_name!r} of {width} x {height} "
                    f"pixels: {axis} goes from 0 to {last}"
                )
        return values


def _known(name: str, known: Mapping[str, Any], what: str) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")


def _checked(name: str, pixels: np.ndarray) -> np.ndarray:
    """A copy, which no one can change under a mask."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        what = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ValueError(f"image {name!r} must be a uint8 array (H, W, 3), RGB, got {what}")
    if 0 in pixels.shape:
        raise ValueError(f"image {name!r} has no pixels: its shape is {pixels.shape}")
    return np.array(pixels, order="C")
