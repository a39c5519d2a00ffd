"""A prompting session without a browser: clicks and a box on images, undone and redone, recorded and replayed.

Coordinates are pixel indices (x, y) of the current image, the centre of the first pixel being (0, 0); boxes
(x0, y0, x1, y1) hold the extreme pixel indices, inclusive.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from labhelpers.files import write_atomic
from labhelpers.prompting.predictor import Predictor, Prompt, check_image

MAX_SIDE = 65_500  # pixels, of a JPEG, in which a canvas gets its picture
FORMAT = 1  # of a recording; raise it when an older one can no longer be replayed
REPLAYED = {  # actions of a recording, and what each is told
    "add_point": {"x", "y", "label"},
    "add_box": {"x0", "y0", "x1", "y1"},
    "switch_image": {"name"},
    "switch_model": {"name"},
    **dict.fromkeys(("clear", "undo", "redo"), set()),
}

# Points and box: Okabe and Ito, "Color universal design" (2008), which colour-blind readers can tell apart; a sign in
# each point says the same again. The mask: magenta, which photographs hardly have, with a white outline.
COLOURS = {"mask": "#D6278A", "foreground": "#009E73", "background": "#D55E00", "box": "#F0E442"}
OPACITY = 0.5


@dataclass(frozen=True)
class Answer:
    """What a predictor said to the prompts of one image."""

    mask: np.ndarray  # bool (H, W), read-only
    predicted_iou: float | None  # None from a predictor that estimates none
    latency_ms: float  # of the prediction alone: the image was encoded before
    class_name: str | None  # where the network knows classes


@dataclass(frozen=True)
class Step:
    """The prompts of an image after one action, and the answers to them so far, by model: each is computed once."""

    clicks: tuple[tuple[float, float, int], ...] = ()  # x, y, label
    corners: tuple[float, ...] | None = None  # x0, y0, x1, y1
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


@dataclass
class Picture:
    """An image and its history: undo goes back in it, redo forth, and a new step forgets what was undone."""

    pixels: np.ndarray  # uint8 (H, W, 3), read-only
    history: list[Step] = field(default_factory=lambda: [Step()])
    position: int = 0

    @property
    def step(self) -> Step:
        return self.history[self.position]


class PromptSession:
    """Prompts on one or several images, and the mask that a model gives for them.

    Every image keeps its prompts, and its own undo and redo. Undo takes back the last click, box or clear and brings
    back exactly the mask that was there before. A click refines: the mask before it is one of the model's inputs. A
    new box (which replaces the one before) and the first click after a clear start from no mask.

    Args:
        predictor: one, or several by name.
        images: uint8 (H, W, 3), RGB: one, or several by name. They are copied.

    Raises:
        ValueError: no predictor, no image, or an image of another kind. An action that raises changes nothing.
    """

    def __init__(self, predictor: Predictor | Mapping[str, Predictor], images: np.ndarray | Mapping[str, np.ndarray]):
        self.predictors = dict(predictor) if isinstance(predictor, Mapping) else {predictor.name: predictor}
        self._pictures: dict[str, Picture] = {}
        self._observers: list[Callable[[], None]] = []
        for name, pixels in (images if isinstance(images, Mapping) else {"image": images}).items():
            self.add_image(name, pixels)
        for what, there in (("predictor", self.predictors), ("image", self._pictures)):
            if not there:
                raise ValueError(f"PromptSession needs at least one {what}, got an empty mapping")
        self.model, self.image_name = next(iter(self.predictors)), next(iter(self._pictures))
        self._log: list[dict[str, Any]] = [
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
        return self._picture.pixels

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
            ValueError: as `Prompt.checked`.
        """
        prompt = Prompt.checked(self.image.shape[:2], [[x, y]], [label], None, None)
        (x, y), label = prompt.points[0].tolist(), int(prompt.labels[0])
        now = self._picture.step
        step = Step((*now.clicks, (x, y, label)), now.corners, None if now.is_empty else now)
        self._do(step, "add_point", x=x, y=y, label=label)

    def add_box(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Draw a box around the object, in place of the one before; what sticks out of the image is cut off.

        Raises:
            ValueError: as `Prompt.checked`.
        """
        corners = np.asarray(Prompt.checked(self.image.shape[:2], None, None, [x0, y0, x1, y1], None).box).tolist()
        arguments = dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True))
        self._do(Step(self._picture.step.clicks, tuple(corners)), "add_box", **arguments)

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
        if name != self.image_name:
            self._switch(self.model, name)
            self._changed("switch_image", name=name)

    def switch_model(self, name: str) -> None:
        """Ask another model the same; raises ValueError if it is unknown."""
        if name != self.model:
            self._switch(name, self.image_name)
            self._changed("switch_model", name=name)

    def add_image(self, name: str, pixels: np.ndarray) -> None:
        """Take one more image, uint8 (H, W, 3), without switching to it.

        Raises:
            ValueError: the name is taken, the array is no such image, or a side has more than 65,500 pixels.
        """
        if name in self._pictures:
            raise ValueError(f"there is an image {name!r} already: give the new one another name")
        check_image(pixels, f"image {name!r} must be")
        if 0 in pixels.shape:
            raise ValueError(f"image {name!r} has no pixels: its shape is {pixels.shape}")
        if (side := max(pixels.shape)) > MAX_SIDE:
            raise ValueError(f"image {name!r} has a side of {side} pixels, more than {MAX_SIDE}: reduce it")
        self._pictures[name] = Picture(_read_only(pixels))
        self._notify()

    def observe(self, callback: Callable[[], None]) -> None:
        """Have `callback()` called after every change: a view shows then what there is."""
        self._observers.append(callback)

    # What remains of it

    @property
    def actions(self) -> list[dict[str, Any]]:
        """Every action since the session began, what was undone too: {"action": "add_point", "x": 3.0, ...}."""
        return list(self._log)

    def to_json(self) -> str:
        """All actions, and the prompts and answers that remain."""
        return json.dumps(self._record(), indent=1, allow_nan=False)

    @classmethod
    def from_json(
        cls, text: str, predictor: Predictor | Mapping[str, Predictor], images: np.ndarray | Mapping[str, np.ndarray]
    ) -> "PromptSession":
        """A session as it was when `to_json` recorded it; raises ValueError as `replay` does."""
        session = cls(predictor, images)
        session.replay(text)
        return session

    def replay(self, text: str) -> list[Answer | None]:
        """Do every recorded action again, on its own images and models; returns the answer after each.

        To ask another model, give it under the recorded name: `PromptSession({"mini_sam": sam}, images)`.

        Raises:
            ValueError: the text is no recording, or names an image or a model that is not here, or an image's pixels
                are not those recorded, or something was done here before. The session is then as it was.
        """
        if len(self._log) > 2:  # beyond the model and the image that it began with
            raise ValueError("replay needs a session in which nothing was done yet: make a new one")
        actions = self._actions_of(text)
        model, image, log, answers = self.model, self.image_name, self.actions, []
        for number, action in enumerate(actions, start=1):
            arguments = dict(action)
            name, before = arguments.pop("action"), len(self._log)
            try:
                getattr(self, name)(**arguments)
                if number > 2 and len(self._log) == before:  # beyond the model and the image
                    raise ValueError("it changes nothing, and such are not recorded")
                answers.append(self.answer)
            except BaseException as error:
                for picture in self._pictures.values():
                    picture.history, picture.position = [Step()], 0
                self.model, self.image_name, self._log = model, image, log
                self._notify()
                if isinstance(error, ValueError):
                    raise ValueError(f"action {number} of the recording, {name}: {error}") from error
                raise
        return answers

    def _actions_of(self, text: str) -> list[dict[str, Any]]:
        """The actions of a recording of these images, each with the arguments that it takes; ValueError otherwise."""
        try:
            record = json.loads(text)
            version, images, actions = (record[key] for key in ("prompt_session", "images", "actions"))
            if version != FORMAT:
                raise ValueError(f"it has format {version!r}; this version of labhelpers reads format {FORMAT}")
            recorded = {name: dict(facts) for name, facts in images.items()}
            given = [(action["action"], action.keys() - {"action"}) for action in actions]
            if not isinstance(actions, list) or [name for name, _ in given[:2]] != ["switch_model", "switch_image"]:
                raise ValueError("its actions do not begin with a model and an image")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"this is no recording of a PromptSession ({error}): use what to_json() returned"
            ) from error
        for name, facts in recorded.items():
            _known(name, self._pictures, "image")
            if not _facts(self._pictures[name].pixels).items() <= facts.items():
                raise ValueError(
                    f"image {name!r} is not the one that was recorded, its pixels differ: give the same file"
                )
        for number, (name, arguments) in enumerate(given, start=1):
            _known(name, REPLAYED, "action")
            if arguments != REPLAYED[name]:
                needed, found = (", ".join(sorted(names)) or "nothing" for names in (REPLAYED[name], arguments))
                raise ValueError(f"action {number} of the recording, {name}, is told {found}; it needs {needed}")
        return actions

    def save(self, folder: str | Path) -> Path:
        """Write `session.json` and, for every image with prompts, its mask as PNG (0 and 255); returns the folder.

        The masks are the current model's; `session.json` names their files. Those that an earlier `session.json` in the
        folder names are replaced or removed.
        """
        folder, record = Path(folder), self._record()
        folder.mkdir(parents=True, exist_ok=True)
        stale = _saved_masks(folder / "session.json")
        for number, (name, picture) in enumerate(self._pictures.items(), start=1):
            answer = self._answer(self.model, name, picture.step)
            if answer is not None:
                file = f"mask_{number:02d}_{re.sub('[^A-Za-z0-9]+', '_', name).strip('_')}.png"
                Image.fromarray(answer.mask.astype(np.uint8) * 255).save(folder / file)
                record["images"][name]["mask"] = file
                stale.discard(file)
        write_atomic(folder / "session.json", json.dumps(record, indent=1).encode())
        for file in stale:
            (folder / file).unlink(missing_ok=True)
        return folder

    def _record(self) -> dict[str, Any]:
        images, prompts = {}, self.prompts()
        for name, picture in self._pictures.items():
            answer = self._answer(self.model, name, picture.step)
            images[name] = {
                **_facts(picture.pixels),
                **prompts[name],
                "predicted_iou": answer and answer.predicted_iou,
                "class_name": answer and answer.class_name,
            }
        return {"prompt_session": FORMAT, "model": self.model, "images": images, "actions": self.actions}

    # How it works: a step is answered before it becomes part of the history, so that what a model refuses is no step

    @property
    def _picture(self) -> Picture:
        return self._pictures[self.image_name]

    def _do(self, step: Step, action: str, **arguments: Any) -> None:
        self._answer(self.model, self.image_name, step)
        picture = self._picture
        picture.history[picture.position + 1 :] = [step]
        picture.position += 1
        self._changed(action, **arguments)

    def _move(self, by: int, action: str) -> bool:
        picture = self._picture
        self._answer(self.model, self.image_name, picture.history[picture.position + by])
        picture.position += by
        self._changed(action)
        return True

    def _switch(self, model: str, image: str) -> None:
        _known(image, self._pictures, "image")
        _known(model, self.predictors, "model")
        self._answer(model, image, self._pictures[image].step)
        self._encode(model, image)
        self.model, self.image_name = model, image

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
            mask, iou = predictor.predict(step.points, step.labels, step.box, earlier)
            milliseconds = 1000 * (time.perf_counter() - start)
            # A copy, since a predictor may use its array again.
            estimate = float(iou) if math.isfinite(iou) else None
            step.answers[model] = Answer(_read_only(mask), estimate, milliseconds, predictor.class_name)
        return step.answers[model]

    def _encode(self, model: str, image: str) -> Predictor:
        """The model, with this image set. Others may have set another one since: sessions may share a predictor."""
        predictor, pixels = self.predictors[model], self._pictures[image].pixels
        if predictor.image is not pixels:
            predictor.set_image(pixels)
        return predictor


def draw(session: PromptSession) -> Image.Image:
    """The current image with the mask, its outline, the box and the points, as the canvas shows them."""
    mask = session.mask
    picture = session.image.astype(np.float32)
    picture[mask] += OPACITY * (np.array(tuple(bytes.fromhex(COLOURS["mask"][1:]))) - picture[mask])
    padded = np.pad(mask, 1, mode="edge")  # no outline along the image's edge
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    picture[mask & ~inside] = 255
    drawn = Image.fromarray(np.rint(picture).astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    unit = max(1, round(max(drawn.size) / 256))  # a line's width
    if session.box is not None:
        x0, y0, x1, y1 = session.box.tolist()
        pen.rectangle((x0, y0, x1, y1), outline="black", width=2 * unit)
        pen.rectangle((x0, y0, x1, y1), outline=COLOURS["box"], width=unit)
    radius, arm = 3.5 * unit, 2 * unit
    for (x, y), label in zip(session.points.tolist(), session.labels.tolist(), strict=True):
        colour = COLOURS["foreground" if label else "background"]
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="white", width=unit)
        pen.line((x - arm, y, x + arm, y), fill="white", width=unit)
        if label:
            pen.line((x, y - arm, x, y + arm), fill="white", width=unit)
    return drawn


def _saved_masks(path: Path) -> set[str]:
    """The files that `save` named in an earlier `session.json`, if it is one: of anything else nothing is removed."""
    try:
        images = json.loads(path.read_bytes())["images"].values()
        names = {image["mask"] for image in images if "mask" in image}
        return {name for name in names if re.fullmatch(r"mask_\d+_\w*\.png", name)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _known(name: str, known: Mapping[str, Any], what: str) -> None:
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")


def _facts(pixels: np.ndarray) -> dict[str, Any]:
    """What a recorded image is known by."""
    height, width = pixels.shape[:2]
    return {"width": width, "height": height, "sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}


def _read_only(array: np.ndarray) -> np.ndarray:
    """A copy that nobody can change."""
    copy = np.array(array, order="C")
    copy.setflags(write=False)
    return copy
