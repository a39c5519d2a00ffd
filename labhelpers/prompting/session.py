"""A prompting session without a browser: clicks and a box on images, undone and redone, recorded, replayed and saved.

Coordinates are pixel indices (x, y) of the current image, the centre of the first pixel being (0, 0); boxes
(x0, y0, x1, y1) hold the extreme pixel indices, inclusive.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from labhelpers.data.base import png
from labhelpers.data.names import refuse_repeats
from labhelpers.data.reading import VOC_PALETTE
from labhelpers.data.voc import VOC_CLASSES
from labhelpers.files import read_json, write_atomic
from labhelpers.prompting.everything import paint
from labhelpers.prompting.predictor import Predictor, Prompt, check_image
from labhelpers.prompting.sampling import box_from_mask

MAX_SIDE = 65_500  # pixels, of a JPEG, in which a canvas gets its picture
MAX_NUMBER = 254  # of a class or an object: in a map of bytes 0 is background and 255 void
FORMAT = 1  # of a recording; raise it when an older one can no longer be replayed
VOC_LIST, COCO_FILE = "ImageSets/Segmentation/trainval.txt", "instances.json"  # where `save` lists kept objects
REPLAYED = {  # actions of a recording, and what each is told
    "add_point": {"x", "y", "label"},
    "add_box": {"x0", "y0", "x1", "y1"},
    "move_point": {"index", "x", "y"},
    "delete_point": {"index"},
    "choose": {"index"},
    "keep": {"label"},
    "delete_object": {"index"},
    "switch_image": {"name"},
    "switch_model": {"name"},
    **dict.fromkeys(("clear", "undo", "redo"), set()),
}

# Points and box: Okabe and Ito, "Color universal design" (2008), which colour-blind readers can tell apart; a sign in
# each point says the same again. The mask: magenta, which photographs hardly have, with a white outline; blue is the
# mask that a click would give.
COLOURS = {
    "mask": "#D6278A",
    "preview": "#56B4E9",
    "foreground": "#009E73",
    "background": "#D55E00",
    "box": "#F0E442",
}
OPACITY = 0.5


@dataclass(frozen=True)
class Answer:
    """What a predictor said to the prompts of one image."""

    mask: np.ndarray  # bool (H, W), read-only
    predicted_iou: float | None  # None from a predictor that estimates none
    latency_ms: float  # of the prediction alone: the image was encoded before
    class_name: str | None  # where the network knows classes


@dataclass(frozen=True, eq=False)
class KeptObject:
    """A mask that was kept as an object of a class."""

    mask: np.ndarray  # bool (H, W), read-only
    label: str  # one of the session's class names


@dataclass(frozen=True)
class Step:
    """An image after one action: prompts, objects kept, and the answers so far, by model: each is computed once."""

    clicks: tuple[tuple[float, float, int], ...] = ()  # x, y, label
    corners: tuple[float, ...] | None = None  # x0, y0, x1, y1
    refines: "Step | None" = None  # the step whose mask this one starts from
    objects: tuple[KeptObject, ...] = ()
    chosen: dict[str, int] = field(default_factory=dict)  # by model, which of its candidates counts; else the first
    answers: dict[str, tuple[Answer, ...]] = field(default_factory=dict)  # candidates, the best first

    @property
    def is_empty(self) -> bool:
        return not self.clicks and self.corners is None

    @property
    def is_one_click(self) -> bool:
        """Whether it may mean a part, an object or several, so that there is a choice."""
        return len(self.clicks) == 1 and self.corners is None

    def with_click(self, index: int, *click: tuple[float, float, int]) -> "Step":
        """As it were had click `index` been this one, or none, from the start: later clicks refine what is then there.

        Two steps then have the same answers where they have the same clicks.
        """
        before = self.refines
        if before is not None and index < len(before.clicks):
            before = before.with_click(index, *click)
            return Step((*before.clicks, self.clicks[-1]), self.corners, before.or_none, self.objects)
        if before is not None and not click:
            return replace(before, objects=self.objects)
        return Step((*self.clicks[:index], *click, *self.clicks[index + 1 :]), self.corners, before, self.objects)

    @property
    def or_none(self) -> "Step | None":
        """The step to refine: one without prompts gives no mask."""
        return None if self.is_empty else self

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

    Every image keeps its prompts and objects, and its own undo and redo. Undo takes back the last action and brings
    back exactly the mask that was there before. A click refines: the mask before it is one of the model's inputs. A
    new box (which replaces the one before) and the first click after a clear start from no mask. One click alone has
    several candidates where the model draws several (SAM's three masks); any more prompts have one answer.

    Args:
        predictor: one, or several by name.
        images: uint8 (H, W, 3), RGB: one, or several by name. They are copied.
        class_names: one name per label, the background's first, that objects can be kept with.

    Raises:
        ValueError: no predictor, no image, an image of another kind, a class name twice, or more than 255 of them. An
            action that raises changes nothing.
    """

    def __init__(
        self,
        predictor: Predictor | Mapping[str, Predictor],
        images: np.ndarray | Mapping[str, np.ndarray],
        class_names: Sequence[str] = VOC_CLASSES,
    ):
        refuse_repeats(class_names, "class_names")
        if len(class_names) > MAX_NUMBER + 1:
            raise ValueError(f"class_names has {len(class_names)} names; a label map holds {MAX_NUMBER + 1} at most")
        self.class_names = tuple(class_names)
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
    def candidates(self) -> tuple[Answer, ...]:
        """The current model's answers to the prompts of the current image, the best first; none without prompts."""
        return self._candidates(self.model, self.image_name, self._picture.step)

    @property
    def chosen(self) -> int:
        """Which of the candidates counts."""
        return self._picture.step.chosen.get(self.model, 0)

    @property
    def answer(self) -> Answer | None:
        """The candidate that counts; None without prompts."""
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
    def objects(self) -> tuple[KeptObject, ...]:
        """The objects that were kept of the current image."""
        return self._picture.step.objects

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
        step = self._clicked(x, y, label)
        self._do(step, "add_point", **dict(zip(("x", "y", "label"), step.clicks[-1], strict=True)))

    def preview(self, x: float, y: float, label: int = 1) -> Answer:
        """What `add_point` would give, without doing it; raises as it does."""
        answer = self._answer(self.model, self.image_name, self._clicked(x, y, label))
        assert answer is not None  # there is a click
        return answer

    def move_point(self, index: int, x: float, y: float) -> None:
        """Put a point (numbered from 0) somewhere else, as if it had been clicked there; later clicks refine anew.

        Raises:
            ValueError: there is no such point, or as `Prompt.checked`.
        """
        self._refuse_unknown("point", index, len(self.points))
        click = self._checked(x, y, self._picture.step.clicks[index][2])
        self._do(self._picture.step.with_click(index, click), "move_point", index=int(index), x=click[0], y=click[1])

    def delete_point(self, index: int) -> None:
        """Take a point (numbered from 0) away, as if it had never been; raises ValueError if there is no such point."""
        self._refuse_unknown("point", index, len(self.points))
        self._do(self._picture.step.with_click(index), "delete_point", index=int(index))

    def add_box(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Draw a box around the object, in place of the one before; what sticks out of the image is cut off.

        Raises:
            ValueError: as `Prompt.checked`.
        """
        corners = np.asarray(Prompt.checked(self.image.shape[:2], None, None, [x0, y0, x1, y1], None).box).tolist()
        arguments = dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True))
        now = self._picture.step
        self._do(Step(now.clicks, tuple(corners), objects=now.objects), "add_box", **arguments)

    def choose(self, index: int) -> None:
        """Take another of the current model's candidates, numbered from 0; raises ValueError if there is no such one.

        Further clicks refine the chosen one.
        """
        self._refuse_unknown("candidate", index, len(self.candidates))
        if index != self.chosen:
            now = self._picture.step
            step = replace(now, chosen={**now.chosen, self.model: int(index)})
            self._do(step, "choose", index=int(index))

    def keep(self, label: str) -> None:
        """Keep the mask as an object with this label, and go on with the next object: the prompts are gone.

        Raises:
            ValueError: the mask is empty, the label is no class name but the background's, or 254 objects are kept.
        """
        _known(label, dict.fromkeys(self.class_names[1:]), "label")
        if not self.mask.any():
            raise ValueError("there is no mask to keep: click on an object, or draw a box around it, first")
        if len(self.objects) == MAX_NUMBER:
            raise ValueError(f"{MAX_NUMBER} objects are kept of this image, and a label map holds no more")
        self._do(Step(objects=(*self.objects, KeptObject(self.mask, label))), "keep", label=label)

    def delete_object(self, index: int) -> None:
        """Keep an object (numbered from 0) no longer; raises ValueError if there is no such one."""
        self._refuse_unknown("object", index, len(self.objects))
        objects = (*self.objects[:index], *self.objects[index + 1 :])
        self._do(replace(self._picture.step, objects=objects), "delete_object", index=int(index))

    def clear(self) -> None:
        """Take all prompts off the image; undo brings them back. Without prompts it does nothing."""
        if not self._picture.step.is_empty:
            self._do(Step(objects=self.objects), "clear")

    def undo(self) -> bool:
        """Take back the last action on this image; returns whether there was one."""
        return self.can_undo and self._move(-1, "undo")

    def redo(self) -> bool:
        """Do again what was undone last; returns whether there was something. A new action forgets it."""
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

    def label_maps(self) -> tuple[np.ndarray, np.ndarray]:
        """The kept objects of the current image as maps, uint8 (H, W): of labels, and of objects numbered from 1.

        Where objects overlap the smaller one is seen, and of two of one size the later one.
        """
        return self._label_maps(self._picture)

    @property
    def actions(self) -> list[dict[str, Any]]:
        """Every action since the session began, what was undone too: {"action": "add_point", "x": 3.0, ...}."""
        return list(self._log)

    def to_json(self) -> str:
        """All actions, and the prompts and answers that remain."""
        return json.dumps(self._record(), indent=1, allow_nan=False)

    @classmethod
    def from_json(
        cls,
        text: str,
        predictor: Predictor | Mapping[str, Predictor],
        images: np.ndarray | Mapping[str, np.ndarray],
        class_names: Sequence[str] = VOC_CLASSES,
    ) -> "PromptSession":
        """A session as it was when `to_json` recorded it; raises ValueError as `replay` does."""
        session = cls(predictor, images, class_names)
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
        """Write what there is on all images into a folder, made when needed; returns the folder.

            session.json                             what `to_json` returns, with the names of the files
            mask_NN_NAME.png                         the current model's mask (0 and 255) of an image with prompts
            JPEGImages/NN_NAME.png                   an image with kept objects, its pixels unchanged,
            SegmentationClass/NN_NAME.png              their labels, in VOC's palette,
            SegmentationObject/NN_NAME.png             and their numbers, as `label_maps`;
            ImageSets/Segmentation/trainval.txt        the names of these images
            instances.json                           the objects in COCO's format, whole where they overlap

        `VOCSegmentation(folder, "trainval")` reads the middle part, and so does, of other classes,
        `FolderSegmentation(folder / "JPEGImages", folder / "SegmentationClass", class_names)`. What an earlier
        `session.json` in the folder names is replaced or removed.
        """
        folder, record = Path(folder), self._record()
        files: dict[str, bytes] = {}
        labelled: dict[str, Picture] = {}
        for number, (name, picture) in enumerate(self._pictures.items(), start=1):
            stem = f"{number:02d}_{re.sub('[^A-Za-z0-9]+', '_', name).strip('_')}"
            answer = self._answer(self.model, name, picture.step)
            if answer is not None:
                record["images"][name]["mask"] = f"mask_{stem}.png"
                files[f"mask_{stem}.png"] = png(answer.mask.astype(np.uint8) * 255, palette=False)
            if picture.step.objects:
                record["images"][name]["labelled"] = stem
                labelled[stem] = picture
                labels, objects = self._label_maps(picture)
                image, *maps = _voc_files(stem)
                files[image] = png(picture.pixels, palette=False)
                files |= dict(zip(maps, (png(labels), png(objects)), strict=True))
        if labelled:
            files[VOC_LIST] = "".join(f"{stem}\n" for stem in labelled).encode()
            files[COCO_FILE] = json.dumps(self._coco(labelled)).encode()
        stale = _saved_files(folder / "session.json") - files.keys()
        files["session.json"] = json.dumps(record, indent=1).encode()
        for file, data in files.items():
            write_atomic(folder / file, data)
        for file in stale:
            (folder / file).unlink(missing_ok=True)
        return folder

    def _label_maps(self, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
        objects = picture.step.objects
        masks = np.array([kept.mask for kept in objects], dtype=bool).reshape(-1, *picture.pixels.shape[:2])
        numbers = np.arange(1, len(objects) + 1)
        labels = np.array([self.class_names.index(kept.label) for kept in objects], dtype=int)
        return paint(masks, numbers, labels), paint(masks, numbers, numbers)

    def _coco(self, labelled: Mapping[str, Picture]) -> dict[str, list[dict[str, Any]]]:
        """What COCO's instances_*.json hold (cocodataset.org, "Data format"), without what is the same for all."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, (stem, picture) in enumerate(labelled.items(), start=1):
            height, width = picture.pixels.shape[:2]
            images.append({"id": number, "file_name": f"{stem}.png", "width": width, "height": height})
            for kept in picture.step.objects:
                x0, y0, x1, y1 = box_from_mask(kept.mask).tolist()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": self.class_names.index(kept.label),
                        "segmentation": {"size": [height, width], "counts": run_lengths(kept.mask)},
                        "area": int(kept.mask.sum()),
                        "bbox": [x0, y0, x1 - x0 + 1, y1 - y0 + 1],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": number, "name": name} for number, name in enumerate(self.class_names) if number]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _record(self) -> dict[str, Any]:
        images, prompts = {}, self.prompts()
        for name, picture in self._pictures.items():
            answer = self._answer(self.model, name, picture.step)
            images[name] = {
                **_facts(picture.pixels),
                **prompts[name],
                "predicted_iou": answer and answer.predicted_iou,
                "class_name": answer and answer.class_name,
                "objects": [kept.label for kept in picture.step.objects],
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

    def _checked(self, x: float, y: float, label: int) -> tuple[float, float, int]:
        prompt = Prompt.checked(self.image.shape[:2], [[x, y]], [label], None, None)
        return (*prompt.points[0].tolist(), int(prompt.labels[0]))

    def _clicked(self, x: float, y: float, label: int) -> Step:
        """The step after one more click."""
        now = self._picture.step
        return Step((*now.clicks, self._checked(x, y, label)), now.corners, now.or_none, now.objects)

    def _refuse_unknown(self, what: str, index: int, count: int) -> None:
        if not isinstance(index, int | np.integer) or isinstance(index, bool) or not 0 <= index < count:
            known = f"they are numbered 0 to {count - 1}" if count else "there are none"
            raise ValueError(f"there is no {what} {index!r} on {self.image_name!r}: {known}")

    def _answer(self, model: str, image: str, step: Step) -> Answer | None:
        candidates = self._candidates(model, image, step)
        return candidates[step.chosen.get(model, 0)] if candidates else None

    def _candidates(self, model: str, image: str, step: Step) -> tuple[Answer, ...]:
        if step.is_empty:
            return ()
        if model not in step.answers:
            before = self._answer(model, image, step.refines) if step.refines else None
            earlier = before.mask.copy() if before and before.mask.any() else None  # an empty mask refines nothing
            predictor = self._encode(model, image)
            start = time.perf_counter()
            masks, ious = predictor.predict(step.points, step.labels, step.box, earlier, multimask=step.is_one_click)
            milliseconds = 1000 * (time.perf_counter() - start)
            step.answers[model] = tuple(
                # A copy, since a predictor may use its array again.
                Answer(_read_only(mask), iou if math.isfinite(iou) else None, milliseconds, predictor.class_name)
                for mask, iou in zip(
                    np.reshape(masks, (-1, *self._pictures[image].pixels.shape[:2])),
                    np.reshape(ious, -1).astype(float).tolist(),
                    strict=True,
                )
            )
        return step.answers[model]

    def _encode(self, model: str, image: str) -> Predictor:
        """The model, with this image set. Others may have set another one since: sessions may share a predictor."""
        predictor, pixels = self.predictors[model], self._pictures[image].pixels
        if predictor.image is not pixels:
            predictor.set_image(pixels)
        return predictor


def draw(session: PromptSession) -> Image.Image:
    """The current image with the objects, the mask, its outline, the box and the points, as the canvas shows them."""
    mask, (_, objects) = session.mask, session.label_maps()
    picture = session.image.astype(np.float32)
    for where, colour in ((objects > 0, VOC_PALETTE[objects]), (mask, tuple(bytes.fromhex(COLOURS["mask"][1:])))):
        picture[where] += OPACITY * (np.broadcast_to(colour, picture.shape) - picture)[where]
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


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's run-length encoding of a mask, bool (H, W): the lengths of runs, column by column, of 0 and 1 in turn.

    The first run is one of 0 and may be empty.
    """
    pixels = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(pixels, prepend=False))  # of runs, but for the first
    return np.diff(starts, prepend=0, append=len(pixels)).tolist()


def _voc_files(stem: str) -> list[str]:
    """Image, label map and object map."""
    return [f"{place}/{stem}.png" for place in ("JPEGImages", "SegmentationClass", "SegmentationObject")]


def _saved_files(path: Path) -> set[str]:
    """The files that `save` named in an earlier `session.json`, if it is one: of anything else nothing is removed."""
    try:
        images = read_json(path)["images"].values()
        masks = {image["mask"] for image in images if "mask" in image}
        stems = {image["labelled"] for image in images if "labelled" in image}
        stems = {stem for stem in stems if re.fullmatch(r"\d+_\w*", stem)}
        found = {name for name in masks if re.fullmatch(r"mask_\d+_\w*\.png", name)}
        return found.union(*map(_voc_files, stems), [VOC_LIST, COCO_FILE] if stems else [])
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
