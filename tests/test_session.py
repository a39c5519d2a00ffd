"""The session and its canvas, without a browser: what each action does, what is sent, what is said, what is kept."""

import base64
import contextlib
import io
import json
import math
import re
import subprocess
import sys
import zipfile
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from prompting_toys import Answers, DiscPredictor, Nested, picture

from labhelpers.data import VOC_CLASSES, FolderSegmentation, VOCSegmentation, voc_palette
from labhelpers.models import build
from labhelpers.prompting import FilledBox, GrabCut, MiniSamPredictor, PromptCanvas, PromptSession
from labhelpers.prompting import canvas as canvas_module
from labhelpers.prompting.canvas import decode_upload
from labhelpers.prompting.session import draw, run_lengths

IMAGES = {"wide": picture(48, 64), "tall, with/odd name": picture(50, 40, shade=20)}
RADII = {"small": 3, "large": 8}


class Fails(DiscPredictor):
    def predict(self, *args, **kwargs):
        raise RuntimeError("out of memory")


def new_session(images=IMAGES, predictor=None) -> PromptSession:
    return PromptSession(predictor or DiscPredictor(), images)


def state(session: PromptSession) -> tuple:
    """All that a user sees."""
    box = None if session.box is None else session.box.tolist()
    return (
        session.image_name,
        session.model,
        session.points.tolist(),
        session.labels.tolist(),
        box,
        session.mask.tobytes(),
        session.predicted_iou,
        session.chosen,
        [(kept.label, kept.mask.tobytes()) for kept in session.objects],
    )


# --- every action ---
class LastClick(Nested):
    """Draws a disc at the last click alone, so that a mask that was not refined lacks those before."""

    def discs(self, image, points, labels, box, mask_input):
        return super().discs(image, points[-1:], labels[-1:], box, mask_input)


class State(NamedTuple):
    clicks: tuple = ()
    box: tuple | None = None
    start: int = 0  # how many of the clicks the first prediction was asked; each of the others refines what was there
    chosen: dict = {}
    objects: tuple = ()

    def masks(self, image, model) -> list[np.ndarray]:
        """The candidates."""
        if not self.clicks and not self.box:
            return []
        found = None
        for count in range(self.start, len(self.clicks) + 1):
            points, labels = [c[:2] for c in self.clicks[:count]], [c[2] for c in self.clicks[:count]]
            choice = count == 1 and not self.box
            radii = [RADII[model] + more for more in ((0, 4, 8) if choice else (0,))]
            earlier = found if found is not None and found.any() else None  # an empty mask says nothing
            masks = [LastClick(radius=radius).discs(image, points, labels, self.box, earlier)[0] for radius in radii]
            found = masks[self.chosen.get(model, 0) if choice else 0]
        return masks


class Expected:
    """A session as plainly as it can be told: for each image the states one after another, and which one it is in."""

    def __init__(self):
        self.image, self.model = "wide", "small"
        self.history = {name: [State()] for name in IMAGES}
        self.position = dict.fromkeys(IMAGES, 0)

    @property
    def now(self) -> State:
        return self.history[self.image][self.position[self.image]]

    @property
    def masks(self):
        return self.now.masks(IMAGES[self.image], self.model)

    @property
    def mask(self):
        shape = IMAGES[self.image].shape[:2]
        return self.masks[self.chosen] if self.masks else np.zeros(shape, dtype=bool)

    @property
    def chosen(self):
        return self.now.chosen.get(self.model, 0) if len(self.masks) > 1 else 0

    def do(self, name, *arguments) -> bool:
        """Whether it is possible; without effect it is."""
        clicks, box, start, chosen, objects = now = self.now
        first, *rest = arguments or [None]
        if name == "add_point":
            self.add(now._replace(clicks=(*clicks, arguments), start=start or (0 if box else 1)))
        elif name == "add_box":
            self.add(State(clicks, arguments, len(clicks), objects=objects))
        elif name in ("move_point", "delete_point"):
            if first >= len(clicks):
                return False
            moved = ((*rest, clicks[first][2]),) if name == "move_point" else ()
            clicks = (*clicks[:first], *moved, *clicks[first + 1 :])
            if first < start:
                start, chosen = start - (not moved), {}
            start = min(len(clicks), start if box else 1)
            self.add(now._replace(clicks=clicks, start=start, chosen=chosen))
        elif name == "choose":
            if first >= len(self.masks):
                return False
            if first != self.chosen:
                self.add(now._replace(chosen={**chosen, self.model: first}))
        elif name == "keep":
            if not self.mask.any():
                return False
            self.add(State(objects=(*objects, (first, self.mask.tobytes()))))
        elif name == "delete_object":
            if first >= len(objects):
                return False
            self.add(now._replace(objects=(*objects[:first], *objects[first + 1 :])))
        elif name == "clear" and (clicks or box):
            self.add(State(objects=objects))
        elif name in ("undo", "redo"):
            moved = self.position[self.image] + (1 if name == "redo" else -1)
            if 0 <= moved < len(self.history[self.image]):
                self.position[self.image] = moved
        elif name == "switch_image":
            self.image = first
        elif name == "switch_model":
            self.model = first
        return True

    def add(self, state):
        self.position[self.image] += 1
        self.history[self.image][self.position[self.image] :] = [state]


coordinates = st.integers(0, 39)
indices = st.integers(0, 2)
actions = st.one_of(
    st.tuples(st.just("add_point"), coordinates, coordinates, st.integers(0, 1)),
    st.tuples(st.just("add_box"), coordinates, coordinates, coordinates, coordinates).map(
        lambda a: ("add_box", min(a[1], a[3]), min(a[2], a[4]), max(a[1], a[3]), max(a[2], a[4]))
    ),
    st.tuples(st.just("move_point"), indices, coordinates, coordinates),
    st.tuples(st.sampled_from(["delete_point", "choose", "delete_object"]), indices),
    st.tuples(st.just("keep"), st.sampled_from(["dog", "cat"])),
    st.tuples(st.sampled_from(["undo", "redo", "clear"])),
    st.tuples(st.just("switch_image"), st.sampled_from(sorted(IMAGES))),
    st.tuples(st.just("switch_model"), st.sampled_from(["small", "large"])),
)
sequences = st.lists(actions, max_size=12)


def two_models() -> PromptSession:
    return new_session(predictor={name: LastClick(name, radius) for name, radius in RADII.items()})


CLICKS = [("add_point", 10, 10, 1), ("add_point", 30, 10, 1), ("add_point", 20, 30, 1)]
EMPTIED = [("add_box", 20, 20, 21, 21), ("add_point", 20, 20, 0)]  # an empty mask
BOX = ("add_box", 0, 0, 20, 20)


@settings(max_examples=120, deadline=None)
@given(sequences)
@example([*CLICKS, ("switch_model", "large"), ("undo",), ("switch_model", "small")])
@example([*CLICKS, BOX, ("add_point", 39, 39, 0), ("clear",), CLICKS[0]])
@example([*EMPTIED, CLICKS[1]])
@example([CLICKS[0], ("undo",), CLICKS[1], ("redo",), ("switch_image", "tall, with/odd name"), ("undo",), CLICKS[0]])
@example([*CLICKS, ("move_point", 1, 5, 35), ("delete_point", 0), ("delete_point", 1), ("delete_point", 0)])
@example([*CLICKS[:2], BOX, CLICKS[2], ("delete_point", 0), ("delete_point", 1), ("delete_point", 0)])
@example([BOX, CLICKS[1], ("delete_point", 0), ("undo",), ("move_point", 0, 30, 30)])
@example([CLICKS[0], ("choose", 2), *CLICKS[1:], ("delete_point", 2), ("delete_point", 1), ("choose", 0)])
@example([CLICKS[0], ("choose", 1), ("switch_model", "large"), ("choose", 2), ("switch_model", "small"), ("undo",)])
@example([CLICKS[0], ("keep", "dog"), CLICKS[1], ("keep", "cat"), BOX, ("delete_object", 0), ("clear",), ("undo",)])
def test_every_action_does_what_it_says_and_observers_hear_of_every_change(sequence):
    session, expected, heard = two_models(), Expected(), []
    session.observe(lambda: heard.append(state(session)))
    for name, *arguments in sequence:
        before = state(session), session.can_undo, session.can_redo
        if expected.do(name, *arguments):
            getattr(session, name)(*arguments)
        else:
            with pytest.raises(ValueError, match="there is no (point|candidate|object|mask)"):
                getattr(session, name)(*arguments)
        now = expected.now
        assert (session.image_name, session.model) == (expected.image, expected.model)
        assert [(*point, label) for point, label in zip(session.points, session.labels, strict=True)] == list(
            now.clicks
        )
        assert session.box is now.box is None or tuple(session.box) == now.box
        np.testing.assert_array_equal(session.mask, expected.mask)
        assert session.predicted_iou == (pytest.approx(expected.mask.mean()) if expected.masks else None)
        assert (len(session.candidates), session.chosen) == (len(expected.masks), expected.chosen)
        assert [(kept.label, kept.mask.tobytes()) for kept in session.objects] == list(now.objects)
        at, last = expected.position[expected.image], len(expected.history[expected.image]) - 1
        assert (session.can_undo, session.can_redo) == (at > 0, at < last)
        assert len(heard) == len(session.actions) - 2  # beyond the model and the image that it began with
        if before != (state(session), session.can_undo, session.can_redo):
            assert heard[-1] == state(session)


@settings(max_examples=40, deadline=None)
@given(sequences)
def test_a_replayed_recording_gives_the_same_masks_at_every_step(sequence):
    session = two_models()
    masks = [session.mask]
    for name, *arguments in sequence:
        before = len(session.actions)
        with contextlib.suppress(ValueError):  # there is no such point, candidate or object
            getattr(session, name)(*arguments)
        if len(session.actions) > before:
            masks.append(session.mask)
    again = two_models()
    answers = again.replay(session.to_json())[1:]  # the model, then the image that it began with
    for answer, mask in zip(answers, masks, strict=True):
        np.testing.assert_array_equal(answer.mask if answer else np.zeros_like(mask), mask)
    assert state(again) == state(session)
    assert again.actions == session.actions
    assert (again.can_undo, again.can_redo) == (session.can_undo, session.can_redo)


class TestAnswers:
    def test_without_prompts_there_is_none(self):
        session = new_session()
        assert session.answer is None
        assert session.mask.shape == (48, 64)
        assert not session.mask.any()
        assert (session.predicted_iou, session.latency_ms, session.class_name) == (None, None, None)
        assert (session.points.shape, session.labels.shape, session.box) == ((0, 2), (0,), None)
        assert session.predictors["discs"].asked == []

    def test_cannot_be_changed_from_outside(self):
        image = picture()
        session = new_session(image)
        session.add_point(10, 10)
        image[:] = 0  # the caller may use its array again
        assert session.image_name == "image"
        np.testing.assert_array_equal(session.image, picture())
        assert (session.points.dtype, session.labels.dtype) == (np.float32, np.int64)
        for array in (session.mask, session.image):
            with pytest.raises(ValueError, match="read-only"):
                array[0, 0] = 1

    def test_undo_brings_back_the_same_without_asking_again(self):
        session = new_session()
        session.add_point(10, 10)
        first = session.answer
        session.add_box(5, 5, 30, 30)
        second = session.answer
        session.clear()
        for move, answer in ((session.undo, second), (session.undo, first), (session.redo, second)):
            assert move()
            assert session.answer is answer
        assert len(session.predictors["discs"].asked) == 2

    def test_an_image_is_encoded_once_for_many_clicks(self):
        predictor = DiscPredictor()
        predictor.class_name = "dog"
        session = new_session(predictor=predictor)
        for x in range(5):
            session.add_point(x, 0)
        assert predictor.images == 1
        session.switch_image("tall, with/odd name")
        assert predictor.images == 2
        session.add_point(1, 1)
        assert session.class_name == "dog"

    def test_sessions_may_share_a_predictor(self):
        predictor = DiscPredictor()
        first, second = PromptSession(predictor, picture(30, 30)), PromptSession(predictor, picture(40, 40))
        for session in (first, second):
            session.add_point(5, 5)
        predictor.set_image(picture(8, 8))
        first.add_point(9, 9)
        assert (first.mask.shape, second.mask.shape) == ((30, 30), (40, 40))

    def test_of_the_network(self):
        session = PromptSession(MiniSamPredictor(build("mini_sam", 1)), picture(64, 96))
        session.add_point(30, 20)
        alone, iou = session.predictors["mini_sam"].predict(session.points, session.labels)
        ious = [answer.predicted_iou for answer in session.candidates]
        assert (len(ious), ious, session.answer) == (3, sorted(ious, reverse=True), session.candidates[0])
        np.testing.assert_array_equal(session.mask, alone)  # what it says when it is asked for one mask
        assert session.predicted_iou == iou
        session.choose(2)
        session.add_point(50, 40, label=0)
        session.add_box(10, 10, 60, 50)
        again = PromptSession.from_json(session.to_json(), session.predictors, picture(64, 96))
        assert session.mask.shape == (64, 96)
        assert 0 <= session.predicted_iou <= 1
        np.testing.assert_array_equal(again.mask, session.mask)

    def test_further_clicks_refine_the_candidate_that_was_chosen(self):
        session = new_session(predictor=Nested())
        session.add_point(10, 10)
        masks = [answer.mask for answer in session.candidates]
        assert [mask.sum() for mask in masks] == sorted({mask.sum() for mask in masks})
        session.choose(np.int64(1))
        np.testing.assert_array_equal(session.mask, masks[1])
        session.add_point(40, 30)
        assert len(session.candidates) == 1
        assert session.mask[masks[1]].all()
        assert not session.mask[masks[2] & ~masks[1]].any()
        assert session.actions[3] == {"action": "choose", "index": 1}

    @pytest.mark.parametrize("baseline", [GrabCut(), FilledBox()], ids=lambda baseline: baseline.name)
    def test_a_predictor_of_one_mask_has_one_candidate_and_says_what_it_needs(self, baseline):
        session = new_session(predictor=baseline)
        for ask in (session.add_point, session.preview):
            with pytest.raises(ValueError, match="needs a box and takes nothing else, got points, labels: it cannot"):
                ask(3, 3)
        session.add_box(10, 10, 30, 30)
        assert (len(session.candidates), session.chosen, session.predicted_iou) == (1, 0, None)

    @pytest.mark.parametrize("label", [0, 1])
    def test_a_preview_is_what_a_click_would_give_and_changes_nothing(self, label):
        session, heard = used(new_session(predictor=Nested())), []
        session.choose(1)
        session.observe(lambda: heard.append(1))
        before = state(session), session.to_json()
        preview = session.preview(8, 9, label)
        assert (state(session), session.to_json(), heard) == (*before, [])
        session.add_point(8, 9, label)
        np.testing.assert_array_equal(session.mask, preview.mask)
        assert session.predicted_iou == preview.predicted_iou


class TestObjects:
    def test_a_kept_mask_stays_with_its_label_and_the_prompts_go(self):
        session = new_session()
        session.add_point(10, 10)
        mask = session.mask
        session.keep("dog")
        assert (len(session.points), session.answer, session.mask.any()) == (0, None, False)
        assert [(kept.label, kept.mask is mask) for kept in session.objects] == [("dog", True)]
        session.undo()
        assert (session.objects, session.mask is mask) == ((), True)

    def test_in_maps_the_smaller_one_is_on_top_and_of_equals_the_later(self):
        session = new_session()
        for box, label in (((20, 20, 24, 24), "cat"), ((10, 10, 40, 40), "dog"), ((24, 24, 28, 28), "sofa")):
            session.add_box(*box)
            session.keep(label)
        labels, objects = session.label_maps()
        assert (labels.dtype, objects.dtype, labels.shape) == (np.uint8, np.uint8, (48, 64))
        expected = np.zeros((48, 64), int)
        expected[10:41, 10:41] = 2
        expected[20:25, 20:25] = 1
        expected[24:29, 24:29] = 3
        np.testing.assert_array_equal(objects, expected)
        np.testing.assert_array_equal(labels, np.array([0, 8, 12, 18])[expected])
        session.switch_image("tall, with/odd name")
        assert not np.any(session.label_maps())

    def test_more_than_a_map_of_bytes_holds_is_refused(self):
        session = new_session()
        for _ in range(254):
            session.add_point(3, 3)
            session.keep("dog")
        session.add_point(3, 3)
        with pytest.raises(ValueError, match="254 objects are kept of this image, and a label map holds no more"):
            session.keep("dog")
        with pytest.raises(ValueError, match="class_names has 256 names; a label map holds 255 at most"):
            PromptSession(DiscPredictor(), picture(), [str(number) for number in range(256)])
        with pytest.raises(ValueError, match="class_names calls the labels 1 and 2 'a'"):
            PromptSession(DiscPredictor(), picture(), ["background", "a", "a"])


@settings(max_examples=50, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_are_cocos(mask):
    counts = run_lengths(mask)
    np.testing.assert_array_equal(from_run_lengths({"size": list(mask.shape), "counts": counts}), mask)
    assert all(counts[1:])


def from_run_lengths(segmentation) -> np.ndarray:
    """As COCO's own reader does it: runs of 0 and 1 in turn, column by column."""
    counts = segmentation["counts"]
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(segmentation["size"], order="F")


def used(session: PromptSession) -> PromptSession:
    session.add_point(3, 3)
    return session


def replay_changed(old: str, new: str):
    return lambda session: new_session().replay(session.to_json().replace(old, new))


NO_RECORDING = "no recording of a PromptSession"


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda s: s.add_point(64, 0), r"points must lie in the image of 64 x 48 pixels .* got \[64"),
        (lambda s: s.add_point(0, 48), r"points must lie in the image .* got \[0(\.0)?, 48"),
        (lambda s: s.add_point(-0.6, 0), r"got \[-0\.6"),
        (lambda s: s.add_point(float("nan"), 0), r"got \[nan"),
        (lambda s: s.add_point(None, 0), "points must be an array of numbers, got object"),
        (lambda s: s.add_point(1, 1, label=2), r"labels must be 1 .* or 0 .* got \[2\]"),
        (lambda s: s.add_point(1, 1, label=0.7), r"labels must be 1 .* or 0 .* got \[0\.7\]"),
        (lambda s: s.add_box(64, 0, 80, 10), r"box must lie in the image of 64 x 48 pixels .* got \[64"),
        (lambda s: s.add_box(10, 0, 5, 10), "sort its corners"),
        (lambda s: s.preview(64, 0), r"points must lie in the image of 64 x 48 pixels .* got \[64"),
        (lambda s: s.move_point(0, 64, 0), r"points must lie in the image of 64 x 48 pixels .* got \[64"),
        (lambda s: s.move_point(1, 3, 3), "there is no point 1 on 'wide': they are numbered 0 to 0"),
        (lambda s: s.delete_point(-1), "there is no point -1 on 'wide': they are numbered 0 to 0"),
        (lambda s: s.delete_point(True), "there is no point True"),
        (lambda s: s.choose(1), "there is no candidate 1 on 'wide': they are numbered 0 to 0"),
        (lambda s: s.choose("0"), "there is no candidate '0'"),
        (lambda s: s.delete_object(0), "there is no object 0 on 'wide': there are none"),
        (lambda s: s.keep("background"), "unknown label 'background'; known: aeroplane, bicycle"),
        (lambda s: s.keep(12), "unknown label 12; known: aeroplane, bicycle"),
        (lambda s: s.switch_image("none"), "unknown image 'none'; known: wide, tall"),
        (lambda s: s.switch_model("sam"), "unknown model 'sam'; known: discs, fails"),
        (lambda s: s.switch_model("fails"), "out of memory"),
        (lambda s: s.add_image("wide", picture()), "there is an image 'wide' already"),
        (lambda s: s.add_image("new", picture().astype(float)), r"uint8 array \(H, W, 3\), RGB, got float64"),
        (lambda s: s.add_image("new", picture()[:0]), "has no pixels"),
        (lambda s: s.add_image("new", "photo.jpg"), "got str"),
        (lambda s: s.replay(s.to_json()), "nothing was done yet"),
        (lambda s: PromptSession({}, picture()), "at least one"),
        (lambda s: PromptSession(DiscPredictor(), {}), "at least one"),
        # Recordings
        (lambda s: new_session().replay("[1, 2"), NO_RECORDING),
        (lambda s: new_session().replay("[1, 2]"), NO_RECORDING),
        (lambda s: new_session().replay('{"cells": []}'), f"{NO_RECORDING} .*prompt_session"),
        (replay_changed('"prompt_session": 1', '"prompt_session": 99'), "format 99"),
        (replay_changed("wide", "narrow"), "unknown image 'narrow'; known: wide"),
        (replay_changed("discs", "sam"), "unknown model 'sam'; known: discs"),
        (replay_changed("add_point", "save"), "unknown action 'save'; known: add_point"),
        (
            lambda s: new_session({**IMAGES, "wide": picture(48, 64, shade=91)}).replay(s.to_json()),
            "image 'wide' is not the one that was recorded",
        ),
    ],
)
def test_errors_name_what_is_wrong_and_change_nothing(action, message):
    session = used(new_session(predictor={"discs": DiscPredictor(), "fails": Fails()}))
    before = state(session), session.actions, session.image_names
    with pytest.raises((ValueError, RuntimeError), match=message):
        action(session)
    assert (state(session), session.actions, session.image_names) == before


def test_a_second_save_leaves_no_mask_of_the_first_and_removes_nothing_else(tmp_path):
    folder = tmp_path / "kept"
    folder.mkdir()
    session = used(new_session())
    session.switch_image("wide")
    (folder / "mask_07_mine.png").touch()
    for text in ("no recording", '{"images": {"a": {"mask": "../evil.png"}, "b": {"mask": "mine.png"}}}'):
        (folder / "session.json").write_text(text)
        for name in ("mine.png", "../evil.png"):
            (folder / name).touch()
        session.save(folder)
        assert (folder / "mask_01_wide.png").exists()
    session.clear()
    session.switch_image("tall, with/odd name")
    session.add_point(3, 4)
    session.save(folder)
    names = ["mask_02_tall_with_odd_name.png", "mask_07_mine.png", "mine.png", "session.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (tmp_path / "evil.png").exists()


def test_save_writes_masks_that_can_be_read_back(tmp_path):
    session = used(new_session())
    session.switch_image("tall, with/odd name")
    folder = session.save(tmp_path / "kept")
    assert sorted(path.name for path in folder.iterdir()) == ["mask_01_wide.png", "session.json"]
    session.add_box(1, 2, 30, 40)
    session.save(folder)
    text = (folder / "session.json").read_text()
    recorded = json.loads(text)["images"]["tall, with/odd name"]
    assert (recorded["box"], recorded["width"], recorded["height"]) == ([1, 2, 30, 40], 40, 50)
    assert recorded["mask"] == "mask_02_tall_with_odd_name.png"
    mask = np.asarray(Image.open(folder / recorded["mask"]))
    np.testing.assert_array_equal(mask, session.mask * np.uint8(255))
    again = PromptSession.from_json(text, DiscPredictor(), IMAGES)
    assert (state(again), again.to_json()) == (state(session), session.to_json())
    other = PromptSession.from_json(text, {"discs": DiscPredictor("other", 12)}, IMAGES)  # under the recorded name
    other.switch_image("wide")
    session.switch_image("wide")
    assert other.mask.sum() > session.mask.sum()


class TestLabelled:
    """What `save` writes of kept objects is read again by the project's readers, and by the definition of COCO's."""

    @pytest.fixture
    def session(self):
        session = new_session({**IMAGES, "without": picture(20, 20)})
        for box, label in (((10, 10, 30, 30), "person"), ((20, 20, 50, 40), "dog")):
            session.add_box(*box)
            session.keep(label)
        session.switch_image("tall, with/odd name")
        session.add_point(0, 0)  # a mask at the image's corner
        session.keep("tvmonitor")
        session.add_point(20, 20)
        return session

    def test_as_voc(self, session, tmp_path):
        folder = session.save(tmp_path)
        dataset = VOCSegmentation(folder, "trainval")
        assert dataset.ids == ["01_wide", "02_tall_with_odd_name"]
        assert dataset.has_instances
        for index, name in ((1, "tall, with/odd name"), (0, "wide")):
            session.switch_image(name)
            image, target = dataset[index]
            labels, objects = session.label_maps()
            np.testing.assert_array_equal(image.permute(1, 2, 0), session.image)
            np.testing.assert_array_equal(target, labels)
            np.testing.assert_array_equal(dataset.instances(index), objects)
            np.testing.assert_array_equal(
                np.asarray(Image.open(folder / f"SegmentationClass/{dataset.ids[index]}.png").convert("RGB")),
                voc_palette()[labels],  # what any viewer shows
            )
        assert sorted(np.unique(target)) == [0, 12, 15]

    def test_as_coco(self, session, tmp_path):
        coco = json.loads((session.save(tmp_path) / "instances.json").read_text())
        names = {category["id"]: category["name"] for category in coco["categories"]}
        assert names == dict(list(enumerate(VOC_CLASSES))[1:])
        assert len({annotation["id"] for annotation in coco["annotations"]}) == 3
        for image, name, count in zip(coco["images"], IMAGES, (2, 1), strict=True):
            session.switch_image(name)
            assert Image.open(tmp_path / "JPEGImages" / image["file_name"]).size == (image["width"], image["height"])
            own = [annotation for annotation in coco["annotations"] if annotation["image_id"] == image["id"]]
            assert len(own) == len(session.objects) == count
            for annotation, kept in zip(own, session.objects, strict=True):  # whole, also where another one covers it
                np.testing.assert_array_equal(from_run_lengths(annotation["segmentation"]), kept.mask)
                assert names[annotation["category_id"]] == kept.label
                assert annotation["area"] == kept.mask.sum()
                y, x = np.nonzero(kept.mask)
                assert annotation["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]

    def test_with_classes_of_ones_own(self, tmp_path):
        names = ["nothing", "leaf", "stem"]
        session = PromptSession(DiscPredictor(), picture(), names)
        session.add_point(10, 10)
        session.keep("stem")
        folder = session.save(tmp_path)
        dataset = FolderSegmentation(folder / "JPEGImages", folder / "SegmentationClass", names)
        np.testing.assert_array_equal(dataset[0][1], session.label_maps()[0])
        assert sorted(np.unique(dataset[0][1])) == [0, 2]
        again = PromptSession.from_json((folder / "session.json").read_text(), DiscPredictor(), picture(), names)
        assert state(again) == state(session)
        with pytest.raises(ValueError, match="action 4 of the recording, keep: unknown label 'stem'; known: aeroplane"):
            PromptSession.from_json(session.to_json(), DiscPredictor(), picture())

    def test_a_second_save_leaves_nothing_of_the_first_and_removes_nothing_else(self, session, tmp_path):
        folder = session.save(tmp_path)
        (folder / "JPEGImages" / "mine.png").touch()
        (folder / "01_wide.png").touch()
        session.delete_object(0)
        session.clear()
        session.save(folder)
        assert VOCSegmentation(folder, "trainval").ids == ["01_wide"]
        session.switch_image("wide")
        for _ in range(2):
            session.delete_object(0)
        session.save(folder)
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        assert files == ["01_wide.png", "JPEGImages/mine.png", "session.json"]
        (folder / "session.json").write_text('{"images": {"a": {"labelled": "../01_wide"}}}')
        session.save(folder)
        assert (folder / "01_wide.png").exists()


def test_needs_no_widgets():
    code = "import sys; import labhelpers.prompting; print({'ipywidgets', 'anywidget'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


# --- broken recordings ---
JUNK = [None, True, -1, 0.5, math.nan, 1e999, 10**400, "", "x", [], [1, "a"], {}, {"action": "undo"}, {"a": {"b": 1}}]


def places(tree, path=()):
    """The paths to everything in what `json.loads` gave."""
    yield path
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from places(tree[key], (*path, key))


RECORDED = [
    *CLICKS[:2], ("delete_point", 1), ("choose", 1), ("move_point", 0, 9, 9), ("keep", "dog"), *CLICKS,
    ("delete_object", 0), ("switch_image", "tall, with/odd name"), ("add_box", 1, 2, 30, 40), ("undo",),
]  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_a_broken_recording_is_replayed_or_refused_by_one_error_that_changes_nothing(data):
    recorded = two_models()
    for name, *arguments in RECORDED:
        getattr(recorded, name)(*arguments)
    record = json.loads(recorded.to_json())
    path = data.draw(st.sampled_from(list(places(record))))
    *above, last = path or (None,)
    inner = record
    for key in above:
        inner = inner[key]
    how = data.draw(st.sampled_from(["replace", "remove", "add", "cut"]))
    if how == "remove" and path:
        del inner[last]
    elif how == "add" and isinstance(inner, dict):
        inner["more"] = data.draw(st.sampled_from(JUNK))
    elif path:
        inner[last] = data.draw(st.sampled_from(JUNK))
    text = json.dumps(record)
    text = text[: data.draw(st.integers(0, len(text)))] if how == "cut" else text
    session = two_models()
    before = state(session), session.actions, session.can_undo
    refused = None
    try:
        session.replay(text)
    except ValueError as error:
        refused = str(error)
    if refused is None:  # a change in what the actions do not need, or to an action that is possible, too
        assert len(session.actions) == len(json.loads(text)["actions"])
    else:
        assert re.search("recording|recorded|unknown (image|model|action)", refused)
        assert (state(session), session.actions, session.can_undo) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, f"{NO_RECORDING} .*items"),
        ({"images": {"wide": 3}}, NO_RECORDING),
        ({"images": {"wide": {}}}, "'wide' is not the one"),
        ({"actions": None}, NO_RECORDING),
        ({"actions": []}, "do not begin with a model and an image"),
        ({"actions": ["undo"]}, NO_RECORDING),
        ({"more": {"x": 1}}, f"{NO_RECORDING} .*action"),
        ({"more": {"action": "add_point", "x": 1}}, "action 3 of the recording, add_point, .* needs label, x, y"),
        ({"more": {"action": "choose", "index": 0}}, "action 3 of the recording, choose: there is no candidate 0"),
        ({"more": {"action": "undo"}}, "action 3 of the recording, undo: it changes nothing"),
        ({"more": {"action": "undo", "x": 1}}, "action 3 of the recording, undo, is told x; it needs nothing"),
        (
            {"more": {"action": "add_point", "x": 99, "y": 1, "label": 1}},
            "action 3 of the recording, add_point: points",
        ),
        ({"more": {"action": "add_point", "x": "1", "y": 1, "label": 1}}, "add_point: points must be an array of num"),
        ({"more": {"action": "switch_model", "name": ["a"]}}, r"switch_model: unknown model \['a'\]"),
    ],
)
def test_a_broken_recording_says_what_is_wrong(change, message):
    record = json.loads(new_session().to_json())
    record["actions"] += [change.pop("more")] if "more" in change else []
    with pytest.raises(ValueError, match=message):
        new_session().replay(json.dumps(record | change))


def test_an_image_turned_on_its_side_is_another_image():
    """Of one colour, it has the same bytes."""
    wide = np.zeros((30, 40, 3), dtype=np.uint8)
    text = PromptSession(DiscPredictor(), wide).to_json()
    with pytest.raises(ValueError, match="'image' is not the one that was recorded"):
        PromptSession.from_json(text, DiscPredictor(), wide.transpose(1, 0, 2))
    with pytest.raises(ValueError, match=NO_RECORDING):
        PromptSession.from_json("[" * 100_000, DiscPredictor(), wide)


def test_a_box_that_sticks_out_is_recorded_as_it_was_asked():
    session = new_session()
    session.add_box(-5, 10, 1e9, 20)
    assert session.box.tolist() == [0, 10, 63, 20]
    assert PromptSession.from_json(session.to_json(), DiscPredictor(), IMAGES).actions == session.actions


# --- the canvas ---


def new_canvas(height=48, width=64, predictor=None) -> PromptCanvas:
    images = {"first": picture(height, width), "second": picture(20, 30)}
    return PromptCanvas(PromptSession(predictor or DiscPredictor(), images))


def send(canvas, action, buffers=(), image=None, **arguments):
    """As the browser does."""
    image = canvas.session.image_name if image is None else image
    event = {"id": "view:7", "action": action, "image": image, "arguments": arguments}
    canvas._receive(canvas, event, [memoryview(b) for b in buffers])


def shown_mask(canvas) -> np.ndarray:
    """The mask as canvas.js unpacks it."""
    width, height = canvas._state["size"]
    bits = [canvas._mask[i >> 3] >> (7 - (i & 7)) & 1 for i in range(width * height)]
    return np.array(bits, dtype=bool).reshape(height, width)


def as_file(image: Image.Image, kind="png", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_the_mask_arrives_whatever_its_size(height, width, data):
    canvas = PromptCanvas(PromptSession(DiscPredictor(radius=5), picture(height, width)))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    send(canvas, "add_point", x=x, y=y, label=1)
    assert canvas.session.mask[y, x]
    np.testing.assert_array_equal(shown_mask(canvas), canvas.session.mask)


class TestEvents:
    def test_a_click_changes_the_session_and_is_answered_once(self):
        canvas = new_canvas()
        sequence = canvas._sequence
        send(canvas, "add_point", x=10, y=20, label=1)
        assert canvas.session.points.tolist() == [[10, 20]]
        state = canvas._state
        assert canvas._sequence == sequence + 1
        assert (state["points"], state["box"], state["handled"]) == ([[10, 20, 1]], None, "view:7")
        assert state["predicted_iou"] == canvas.session.predicted_iou
        assert state["latency_ms"] > 0
        json.dumps(state, allow_nan=False)  # what is not JSON would not arrive
        send(canvas, "redo")  # what changes nothing is answered too
        assert canvas._sequence == sequence + 2

    @pytest.mark.parametrize("estimate", [np.nan, np.float32("inf"), -np.inf])
    def test_an_iou_that_is_not_estimated_arrives_as_null(self, estimate):
        canvas = new_canvas(predictor=Answers(lambda image, *_, **__: (image[..., 0] > 0, estimate)))
        send(canvas, "add_box", x0=1, y0=2, x1=30, y1=40)
        assert canvas.session.predicted_iou is canvas._state["predicted_iou"] is None
        for name in canvas.trait_names(sync=True):
            if isinstance(getattr(canvas, name), dict):
                json.dumps(getattr(canvas, name), allow_nan=False)
        recorded = json.loads(canvas.session.to_json(), parse_constant=pytest.fail)
        assert recorded["images"]["first"]["predicted_iou"] is None
        assert canvas._repr_mimebundle_()[0]["text/plain"] == "first: 0 points and a box, predicted IoU –"

    def test_mask_state_and_number_travel_together(self, monkeypatch):
        canvas, messages = new_canvas(), []
        monkeypatch.setattr(canvas, "send_state", lambda key=None: messages.append(set(key)))
        send(canvas, "add_point", x=10, y=20, label=1)
        send(canvas, "switch_image", name="second")
        assert messages == [{"_mask", "_state", "_sequence"}, {"_picture", "_mask", "_state", "_sequence"}]

    def test_box_undo_redo_clear(self):
        canvas = new_canvas()
        for action, arguments, box, can_undo, can_redo in (
            ("add_box", {"x0": 1, "y0": 2, "x1": 30, "y1": 40}, [1, 2, 30, 40], True, False),
            ("undo", {}, None, False, True),
            ("redo", {}, [1, 2, 30, 40], True, False),
            ("clear", {}, None, True, False),
        ):
            send(canvas, action, **arguments)
            state = canvas._state
            assert (state["points"], state["box"], state["can_undo"], state["can_redo"]) == (
                [],
                box,
                can_undo,
                can_redo,
            )

    def test_a_cell_that_changes_the_session_changes_the_canvas(self):
        canvas = new_canvas()
        canvas.session.add_point(3, 4)
        assert canvas._state["points"] == [[3, 4, 1]]
        canvas.session.add_image("third", picture(10, 10))
        assert canvas._state["images"] == ["first", "second", "third"]
        assert canvas.session.image_name == "first"

    def test_choosers(self):
        canvas = new_canvas(predictor={"a": DiscPredictor("a", 3), "b": DiscPredictor("b", 9)})
        send(canvas, "add_point", x=30, y=30, label=1)
        send(canvas, "switch_model", name="b")
        assert (canvas._state["model"], canvas._state["models"]) == ("b", ["a", "b"])
        np.testing.assert_array_equal(shown_mask(canvas), canvas.session.mask)
        send(canvas, "switch_image", name="second")
        assert (canvas._state["image"], canvas._state["size"]) == ("second", [30, 20])
        assert Image.open(io.BytesIO(canvas._picture)).size == (30, 20)

    def test_candidates_and_objects_are_shown(self):
        canvas = new_canvas(predictor=Nested())
        assert (canvas._state["candidates"], canvas._state["objects"], canvas._objects) == ([], [], b"")
        send(canvas, "add_point", x=30, y=30, label=1)
        send(canvas, "choose", index=1)
        ious = [answer.predicted_iou for answer in canvas.session.candidates]
        assert (canvas._state["candidates"], canvas._state["chosen"]) == (ious, 1)
        np.testing.assert_array_equal(shown_mask(canvas), canvas.session.candidates[1].mask)
        mask = shown_mask(canvas)
        send(canvas, "keep", label="dog")
        assert canvas._state["objects"] == [{"label": "dog", "colour": "#800000"}]
        shown = np.asarray(Image.open(io.BytesIO(canvas._objects)).convert("RGBA"))
        np.testing.assert_array_equal(shown[..., 3], mask * 255)
        assert np.unique(shown[mask], axis=0).tolist() == [[128, 0, 0, 255]]
        send(canvas, "delete_object", index=0)
        assert (canvas._state["objects"], canvas._objects) == ([], b"")
        assert canvas._look["labels"] == VOC_CLASSES[1:]

    @pytest.mark.parametrize("image", ["first", "second"])
    def test_a_preview_is_a_message_of_its_own_and_changes_nothing(self, image, monkeypatch):
        canvas, messages = new_canvas(), []
        send(canvas, "add_point", x=10, y=20, label=1)
        monkeypatch.setattr(canvas, "send", lambda *message: messages.append(message))
        before = state(canvas.session), canvas._sequence, canvas._state
        send(canvas, "preview", image=image, x=20, y=10, label=1)
        [(content, [mask])] = messages
        assert content == {"preview": "view:7"}
        expected = np.packbits(canvas.session.preview(20, 10).mask).tobytes()
        assert mask == (expected if image == "first" else b"")  # the pointer was on a picture that is gone
        assert (state(canvas.session), canvas._sequence, canvas._state) == before

    def test_a_preview_that_cannot_be_had_is_empty_and_says_nothing(self, monkeypatch):
        canvas, messages = new_canvas(predictor=Fails()), []
        monkeypatch.setattr(canvas, "send", lambda *message: messages.append(message))
        send(canvas, "preview", x=20, y=10, label=1)
        assert (messages, canvas._state["message"]) == ([({"preview": "view:7"}, [b""])], "")

    def test_an_export_is_what_save_writes(self, monkeypatch, tmp_path):
        canvas, messages = new_canvas(), []
        send(canvas, "add_point", x=10, y=20, label=1)
        send(canvas, "keep", label="dog")
        monkeypatch.setattr(canvas, "send", lambda *message: messages.append(message))
        send(canvas, "export")
        [(content, [data])] = messages
        assert content == {"export": "view:7"}
        saved = canvas.session.save(tmp_path)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
        assert files == {p.relative_to(saved).as_posix(): p.read_bytes() for p in saved.rglob("*") if p.is_file()}

    def test_a_click_on_a_picture_that_is_gone_is_not_taken_for_another(self):
        canvas = new_canvas()
        canvas.session.switch_image("second")
        send(canvas, "add_point", image="first", x=1, y=1, label=1)
        assert len(canvas.session.points) == 0
        assert "click again" in canvas._state["message"]
        send(canvas, "add_point", x=1, y=1, label=1)
        assert canvas._state["message"] == ""

    @pytest.mark.parametrize(
        ("predictor", "action", "arguments", "message"),
        [
            (DiscPredictor(), "add_point", {"x": 1000, "y": 0}, "points must lie in the image of 64 x 48 pixels"),
            (Fails(), "add_point", {"x": 1, "y": 1}, "RuntimeError: out of memory"),
            (DiscPredictor(), "save", {"folder": "/"}, "the canvas does not know the action 'save'"),
        ],
    )
    def test_errors_are_said(self, predictor, action, arguments, message, capsys):
        canvas = new_canvas(predictor=predictor)
        send(canvas, action, **arguments)
        assert canvas._state["message"].startswith(message)
        assert (canvas._state["handled"], canvas._state["points"], canvas._state["can_undo"]) == ("view:7", [], False)
        assert ("Traceback" in capsys.readouterr().err) == isinstance(predictor, Fails)


class TestUpload:
    def upload(self, canvas, data, name="photo.png", part=1000):
        for start in range(0, max(len(data), 1), part):
            last = start + part >= len(data)
            send(canvas, "upload", [data[start : start + part]], name=name, first=start == 0, last=last)

    def test_in_parts_and_under_a_name_of_its_own(self):
        canvas = new_canvas()
        pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        for expected in ("photo.png", "photo.png (2)"):
            self.upload(canvas, as_file(Image.fromarray(pixels)))
            assert canvas.session.image_name == expected
            np.testing.assert_array_equal(canvas.session.image, pixels)

    @pytest.mark.parametrize(
        "data", [b"<html>404</html>", b"", as_file(Image.effect_noise((99, 99), 50), "jpeg")[:-90]], ids=len
    )
    def test_what_is_no_picture(self, data):
        canvas = new_canvas()
        self.upload(canvas, data)
        assert canvas._state["message"].startswith("photo.png cannot be decoded (")
        assert canvas._state["message"].endswith("export it again, as a JPEG or PNG.")
        assert canvas.session.image_names == ["first", "second"]

    def test_limits(self, monkeypatch):
        large = as_file(Image.new("RGB", (100, 11)))
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
        with pytest.raises(ValueError, match=r"large\.png has 0 million pixels, and 0 million are read: reduce it"):
            decode_upload(large, "large.png")
        with pytest.raises(ValueError, match=r"huge\.png has more than 20 MB: choose a smaller one"):
            decode_upload(bytes(20_000_001), "huge.png")

    def test_an_upload_without_an_end_takes_no_more_memory_than_is_allowed(self, monkeypatch):
        monkeypatch.setattr(canvas_module, "MAX_BYTES", 2500)
        canvas, image = new_canvas(), as_file(Image.new("RGB", (9, 9)))
        for number in range(5):
            send(canvas, "upload", [bytes(1000)], name="endless", first=number == 0, last=False)
            assert len(canvas._upload) <= 2501
        send(canvas, "upload", [image], name="endless", first=False, last=True)
        assert canvas._state["message"].startswith("endless has more than 0 MB")
        self.upload(canvas, image)
        assert canvas.session.image_names == ["first", "second", "photo.png"]

    @pytest.mark.parametrize("name", ["../secret.png", "{}/secret.png", "a\0b", "..", "<img src=x onerror=alert(1)>"])
    def test_what_the_browser_calls_an_image_is_never_a_path(self, name, tmp_path, monkeypatch):
        name = name.format(tmp_path)
        (tmp_path / "secret.png").write_bytes(as_file(Image.new("RGB", (9, 9))))
        (tmp_path / "inside").mkdir()
        monkeypatch.chdir(tmp_path / "inside")
        canvas = new_canvas()
        send(canvas, "switch_image", name=name)
        assert (canvas._state["image"], canvas._state["message"][:9]) == ("first", "unknown i")

        self.upload(canvas, as_file(Image.new("RGB", (7, 7))), name)
        assert canvas.session.image_name == name
        canvas.session.add_point(4, 4)
        canvas.session.keep("person")
        canvas.session.add_point(2, 2)
        saved = canvas.session.save(tmp_path / "inside" / "masks")
        files = {path for path in tmp_path.rglob("*") if path.is_file()}
        assert [path.name for path in files if saved not in path.parents] == ["secret.png"]
        assert VOCSegmentation(saved, "trainval")[0][0].shape == (3, 7, 7)

    def test_upright_and_reduced(self):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        photo = Image.new("RGB", (3000, 1500), "blue")
        photo.paste("red", (0, 0, 3000, 300))  # the upper edge of the file, the right one of what is seen
        pixels = decode_upload(as_file(photo, "jpeg", exif=exif), "photo.jpg")
        assert pixels.shape == (1024, 512, 3)
        assert (pixels[512, 500] >= (200, 0, 0)).all()
        assert (pixels[512, 10] >= (0, 0, 200)).all()
        assert pixels[512, 500, 2] < 50

    def test_very_long_pictures(self):
        assert decode_upload(as_file(Image.new("L", (1, 70000))), "long.png").shape == (1024, 1, 3)
        with pytest.raises(ValueError, match="image 'long' has a side of 70000 pixels, more than 65500: reduce it"):
            new_session().add_image("long", np.zeros((1, 70000, 3), np.uint8))


class TestWithoutABrowser:
    def test_the_output_holds_a_picture(self):
        canvas = new_canvas(200, 300)
        canvas.session.add_point(150, 100)
        canvas.session.add_point(50, 50, label=0)
        data, metadata = canvas._repr_mimebundle_()
        assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == canvas.model_id
        static = Image.open(io.BytesIO(base64.b64decode(data["image/jpeg"])))
        assert static.size == (300, 200)
        assert data["text/plain"] == metadata["image/jpeg"]["alt"]
        assert data["text/plain"].startswith("first: 2 points, predicted IoU 0.")

    def test_the_picture_is_small_whatever_the_image(self):
        noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3), dtype=np.uint8)
        canvas = PromptCanvas(PromptSession(DiscPredictor(), noise))
        assert len(base64.b64decode(canvas._repr_mimebundle_()[0]["image/jpeg"])) <= 70_000
        noise = np.random.default_rng(0).integers(0, 255, (2, 65_500, 3), dtype=np.uint8)
        canvas = PromptCanvas(PromptSession(DiscPredictor(), noise))
        assert Image.open(io.BytesIO(canvas._picture)).size == (65_500, 2)
        assert len(base64.b64decode(canvas._repr_mimebundle_()[0]["image/jpeg"])) <= 70_000

    def test_mask_and_points_are_drawn_where_they_are_and_points_differ_in_colour_and_in_sign(self):
        session = PromptSession(DiscPredictor(), picture(512, 512, shade=20)[:, :400])
        session.add_box(20, 10, 50, 40)
        session.add_point(100, 200)
        session.add_point(300, 200, label=0)
        drawn = np.asarray(draw(session))
        magenta = np.array([0xD6, 0x27, 0x8A])
        np.testing.assert_allclose(drawn[25, 35], (session.image[25, 35].astype(float) + magenta) / 2, atol=1)
        np.testing.assert_array_equal(drawn[60, 60], session.image[60, 60])
        assert drawn[203, 103].tolist() == [0, 0x9E, 0x73]
        assert drawn[203, 303].tolist() == [0xD5, 0x5E, 0]
        session.keep("dog")
        np.testing.assert_allclose(
            np.asarray(draw(session))[25, 35], (session.image[25, 35] + voc_palette()[1].astype(float)) / 2, atol=1
        )
        vertical = [drawn[200 - 3, x].tolist() == [255, 255, 255] for x in (100, 300)]
        horizontal = [drawn[200, x - 3].tolist() == [255, 255, 255] for x in (100, 300)]
        assert (horizontal, vertical) == ([True, True], [True, False])


def test_switches_on_colabs_manager_of_custom_widgets(monkeypatch):
    from anywidget import _util

    output, called = ModuleType("google.colab.output"), []
    output.enable_custom_widget_manager = lambda: called.append(True)
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    _util.enable_custom_widget_manager_once.cache_clear()
    new_canvas()
    assert called == [True]
