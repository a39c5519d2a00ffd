"""The session: what each action does, what undo brings back, and that a recording gives the same masks again."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prompting_toys import DiscPredictor, picture

from labhelpers.models import build
from labhelpers.prompting import MiniSamPredictor, PromptSession

IMAGES = {"wide": picture(48, 64), "tall, with/odd name": picture(50, 40, shade=20)}


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
    )


class TestActions:
    def test_without_prompts_there_is_no_answer(self):
        session = new_session()
        assert session.answer is None
        assert session.mask.shape == (48, 64)
        assert not session.mask.any()
        assert (session.predicted_iou, session.latency_ms, session.class_name) == (None, None, None)
        assert (session.points.shape, session.labels.shape, session.box) == ((0, 2), (0,), None)
        assert session.predictors["discs"].asked == []

    def test_a_point_is_at_x_y(self):
        session = new_session()
        session.add_point(60, 5)
        assert session.mask[5, 60]
        assert not session.mask[40, 5]
        assert (session.points.dtype, session.labels.dtype) == (np.float32, np.int64)
        assert session.predicted_iou == pytest.approx(session.mask.mean())
        assert session.latency_ms > 0

    def test_background_point_takes_away(self):
        session = new_session()
        session.add_box(10, 10, 40, 40)
        assert session.mask[10:41, 10:41].all()
        session.add_point(20, 20, label=0)
        assert not session.mask[20, 20]
        assert session.mask[40, 40]
        assert session.labels.tolist() == [0]

    def test_a_new_box_replaces_the_one_before_and_keeps_the_clicks(self):
        session = new_session()
        session.add_point(60, 40)
        session.add_box(0, 0, 10, 10)
        session.add_box(20, 20, 30, 30)
        assert session.box.tolist() == [20, 20, 30, 30]
        assert session.points.tolist() == [[60, 40]]
        assert not session.mask[5, 5]

    def test_only_clicks_refine_the_mask_before(self):
        predictor = DiscPredictor()
        session = new_session(predictor=predictor)
        masks = []
        for action in (
            lambda: session.add_point(10, 10),
            lambda: session.add_point(30, 10),
            lambda: session.add_box(0, 0, 20, 20),
            lambda: session.add_point(40, 40, label=0),
            session.clear,
            lambda: session.add_point(5, 5),
        ):
            action()
            masks.append(session.mask)
        given_masks = [call["mask_input"] for call in predictor.asked]
        assert [m is None for m in given_masks] == [True, False, True, False, True]
        np.testing.assert_array_equal(given_masks[1], masks[0])
        np.testing.assert_array_equal(given_masks[3], masks[2])

    def test_an_empty_mask_refines_nothing(self):
        predictor = DiscPredictor()
        session = new_session(predictor=predictor)
        session.add_point(10, 10, label=0)
        session.add_point(30, 10)
        assert predictor.asked[1]["mask_input"] is None

    def test_answers_cannot_be_changed_from_outside(self):
        session = new_session()
        session.add_point(10, 10)
        with pytest.raises(ValueError, match="read-only"):
            session.mask[0, 0] = True
        with pytest.raises(ValueError, match="read-only"):
            session.image[0, 0] = 0

    def test_the_caller_may_reuse_its_image(self):
        image = picture()
        session = new_session(image)
        image[:] = 0
        assert session.image_name == "image"
        np.testing.assert_array_equal(session.image, picture())

    def test_observers_hear_of_every_change(self):
        session, heard = new_session(), []
        session.observe(lambda: heard.append(state(session)))
        session.add_point(10, 10)
        session.undo()
        session.undo()  # nothing left: no change
        session.redo()
        session.clear()
        session.clear()  # nothing left
        session.switch_image("wide")  # already there
        session.switch_image("tall, with/odd name")
        assert len(heard) == 5
        assert heard[-1] == state(session)


class TestUndo:
    def test_brings_back_the_same_mask_without_asking_again(self):
        predictor = DiscPredictor()
        session = new_session(predictor=predictor)
        session.add_point(10, 10)
        first = session.answer
        session.add_box(5, 5, 30, 30)
        second = session.answer
        session.clear()
        asked = len(predictor.asked)
        assert [session.undo(), session.answer is second] == [True, True]
        assert [session.undo(), session.answer is first] == [True, True]
        assert [session.redo(), session.answer is second] == [True, True]
        assert len(predictor.asked) == asked

    def test_a_new_click_forgets_what_was_undone(self):
        session = new_session()
        session.add_point(10, 10)
        session.undo()
        assert session.can_redo
        session.add_point(20, 20)
        assert not session.can_redo
        assert session.redo() is False
        assert session.points.tolist() == [[20, 20]]

    def test_is_of_the_current_image(self):
        session = new_session()
        session.add_point(10, 10)
        session.switch_image("tall, with/odd name")
        assert session.undo() is False
        session.add_point(3, 3)
        session.switch_image("wide")
        assert session.points.tolist() == [[10, 10]]
        session.undo()
        session.switch_image("tall, with/odd name")
        assert session.points.tolist() == [[3, 3]]


class TestImagesAndModels:
    def test_an_image_is_encoded_once_for_many_clicks(self):
        predictor = DiscPredictor()
        session = new_session(predictor=predictor)
        for x in range(5):
            session.add_point(x, 0)
        assert predictor.images == 1
        session.switch_image("tall, with/odd name")
        assert predictor.images == 2

    def test_sessions_may_share_a_predictor(self):
        predictor = DiscPredictor()
        first, second = PromptSession(predictor, picture(30, 30)), PromptSession(predictor, picture(40, 40))
        first.add_point(5, 5)
        second.add_point(5, 5)
        predictor.set_image(picture(8, 8))
        first.add_point(9, 9)
        assert first.mask.shape == (30, 30)
        assert second.mask.shape == (40, 40)

    def test_another_model_answers_the_same_prompts(self):
        small, large = DiscPredictor("small", 3), DiscPredictor("large", 9)
        session = new_session(predictor={"small": small, "large": large})
        session.add_point(20, 20)
        session.add_point(40, 20)
        area = session.mask.sum()
        session.switch_model("large")
        assert session.mask.sum() > area
        # Its own first answer is what its second refines, not the other model's.
        assert large.asked[1]["mask_input"].sum() == large.predict(large.asked[0]["points"], [1])[0].sum()
        session.undo()
        session.switch_model("small")
        assert len(small.asked) == 2

    def test_class_names_come_along(self):
        predictor = DiscPredictor()
        predictor.class_name = "dog"
        session = new_session(predictor=predictor)
        session.add_point(1, 1)
        assert session.class_name == "dog"

    def test_an_image_added_later(self):
        session = new_session()
        session.add_image("mine", picture(20, 20))
        assert session.image_name == "wide"
        session.switch_image("mine")
        assert session.image.shape == (20, 20, 3)


class TestErrors:
    @pytest.mark.parametrize(
        ("action", "message"),
        [
            (lambda s: s.add_point(64, 0), r"point's x = 64 lies outside the image 'wide' of 64 x 48 .* from 0 to 63"),
            (lambda s: s.add_point(0, 48), r"point's y = 48 .* y goes from 0 to 47"),
            (lambda s: s.add_point(-0.6, 0), r"x = -0\.6 lies outside"),
            (lambda s: s.add_point(float("nan"), 0), "x = nan lies outside"),
            (lambda s: s.add_point(1, 1, label=2), "label must be 1 .* or 0 .* got 2"),
            (lambda s: s.add_box(0, 0, 64, 10), r"box's x = 64 lies outside"),
            (lambda s: s.add_box(10, 0, 5, 10), "sort its corners"),
            (lambda s: s.switch_image("none"), "unknown image 'none'; known: wide, tall"),
            (lambda s: s.switch_model("sam"), "unknown model 'sam'; known: discs"),
            (lambda s: s.add_image("wide", picture()), "there is an image 'wide' already"),
            (lambda s: s.add_image("new", picture().astype(float)), r"uint8 array \(H, W, 3\), RGB, got float64"),
            (lambda s: s.add_image("new", picture()[:0]), "has no pixels"),
            (lambda s: s.add_image("new", "photo.jpg"), "got str"),
        ],
    )
    def test_names_what_is_wrong_and_changes_nothing(self, action, message):
        session = new_session()
        session.add_point(3, 3)
        before = state(session), session.actions, session.image_names
        with pytest.raises(ValueError, match=message):
            action(session)
        assert (state(session), session.actions, session.image_names) == before

    @pytest.mark.parametrize(("predictor", "images"), [({}, picture()), (DiscPredictor(), {})])
    def test_nothing_to_work_with(self, predictor, images):
        with pytest.raises(ValueError, match="at least one"):
            PromptSession(predictor, images)

    def test_what_a_model_refuses_is_no_click(self):
        class Fails(DiscPredictor):
            def predict(self, *args, **kwargs):
                raise RuntimeError("out of memory")

        session = new_session(predictor={"discs": DiscPredictor(), "fails": Fails()})
        session.add_point(3, 3)
        before = state(session), session.actions
        with pytest.raises(RuntimeError, match="out of memory"):
            session.switch_model("fails")
        assert (state(session), session.actions) == before
        fresh = new_session(predictor=Fails())
        with pytest.raises(RuntimeError, match="out of memory"):
            fresh.add_point(3, 3)
        assert not fresh.can_undo
        assert len(fresh.points) == 0


coordinates = st.integers(0, 39)
actions = st.one_of(
    st.tuples(st.just("add_point"), coordinates, coordinates, st.integers(0, 1)),
    st.tuples(st.just("add_box"), coordinates, coordinates, coordinates, coordinates).map(
        lambda a: ("add_box", min(a[1], a[3]), min(a[2], a[4]), max(a[1], a[3]), max(a[2], a[4]))
    ),
    st.tuples(st.sampled_from(["undo", "redo", "clear"])),
    st.tuples(st.just("switch_image"), st.sampled_from(sorted(IMAGES))),
    st.tuples(st.just("switch_model"), st.sampled_from(["small", "large"])),
)
sequences = st.lists(actions, max_size=12)


def played(sequence) -> PromptSession:
    session = new_session(predictor={"small": DiscPredictor("small", 3), "large": DiscPredictor("large", 8)})
    for name, *arguments in sequence:
        getattr(session, name)(*arguments)
    return session


@settings(max_examples=60, deadline=None)
@given(sequences)
def test_undoing_everything_leaves_nothing_and_redoing_brings_all_back(sequence):
    session = played(sequence)
    states = [state(session)]
    while session.undo():
        states.append(state(session))
    assert len(session.points) == 0
    assert session.box is None
    assert not session.mask.any()
    for expected in reversed(states[:-1]):
        assert session.redo()
        assert state(session) == expected


@settings(max_examples=40, deadline=None)
@given(sequences)
def test_a_replayed_recording_gives_the_same_masks_at_every_step(sequence):
    session = played([])
    states = [state(session)]
    for name, *arguments in sequence:
        before = len(session.actions)
        getattr(session, name)(*arguments)
        if len(session.actions) > before:
            states.append(state(session))
    again = played([])
    answers = again.replay(session.to_json())[1:]  # the model, then the image that it began with
    empty = [np.zeros(IMAGES[name].shape[:2], dtype=bool) for name, *_ in states]
    masks = [answer.mask if answer else nothing for answer, nothing in zip(answers, empty, strict=True)]
    assert [mask.tobytes() for mask in masks] == [seen[5] for seen in states]
    assert state(again) == state(session)
    assert again.actions == session.actions
    assert again.can_undo == session.can_undo
    assert again.can_redo == session.can_redo


class TestRecording:
    def test_from_json_restores_the_session(self):
        session = new_session()
        session.add_point(10, 10)
        session.switch_image("tall, with/odd name")
        session.add_box(1, 2, 30, 40)
        again = PromptSession.from_json(session.to_json(), DiscPredictor(), IMAGES)
        assert state(again) == state(session)
        assert again.to_json() == session.to_json()

    def test_save_writes_masks_that_can_be_read_back(self, tmp_path):
        session = new_session()
        session.add_point(10, 10)
        session.switch_image("tall, with/odd name")
        folder = session.save(tmp_path / "kept")
        assert sorted(path.name for path in folder.iterdir()) == ["mask_01_wide.png", "session.json"]
        session.add_box(1, 2, 30, 40)
        session.save(folder)
        record = json.loads((folder / "session.json").read_text())
        recorded = record["images"]["tall, with/odd name"]
        assert recorded["box"] == [1, 2, 30, 40]
        assert (recorded["width"], recorded["height"]) == (40, 50)
        mask = np.asarray(Image.open(folder / recorded["mask"]))
        assert recorded["mask"] == "mask_02_tall_with_odd_name.png"
        np.testing.assert_array_equal(mask, session.mask * np.uint8(255))
        again = PromptSession.from_json((folder / "session.json").read_text(), DiscPredictor(), IMAGES)
        assert state(again) == state(session)

    def test_another_model_under_the_recorded_name(self):
        session = new_session()
        session.add_point(20, 20)
        other = PromptSession.from_json(session.to_json(), {"discs": DiscPredictor("other", 12)}, IMAGES)
        assert other.mask.sum() > session.mask.sum()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda text: "[1, 2", "no recording of a PromptSession"),
            (lambda text: "[1, 2]", "no recording of a PromptSession"),
            (lambda text: '{"cells": []}', "no recording of a PromptSession .*prompt_session"),
            (lambda text: text.replace('"prompt_session": 1', '"prompt_session": 99'), "format 99"),
            (lambda text: text.replace("wide", "narrow"), "unknown image 'narrow'; known: wide"),
            (lambda text: text.replace("discs", "sam"), "unknown model 'sam'; known: discs"),
            (
                lambda text: text.replace("add_point", "save"),
                "unknown action 'save' .* known: add_point",
            ),
        ],
    )
    def test_says_why_it_cannot_be_replayed(self, change, message):
        session = new_session()
        session.add_point(1, 1)
        with pytest.raises(ValueError, match=message):
            new_session().replay(change(session.to_json()))

    def test_refuses_other_pixels_and_a_session_in_use(self):
        text = new_session().to_json()
        with pytest.raises(ValueError, match="image 'wide' is not the one that was recorded"):
            new_session({**IMAGES, "wide": picture(48, 64, shade=91)}).replay(text)
        used = new_session()
        used.add_point(1, 1)
        with pytest.raises(ValueError, match="nothing was done yet"):
            used.replay(text)


def test_with_the_network():
    session = PromptSession(MiniSamPredictor(build("mini_sam", 1)), picture(64, 96))
    session.add_point(30, 20)
    session.add_point(50, 40, label=0)
    session.add_box(10, 10, 60, 50)
    again = PromptSession.from_json(session.to_json(), session.predictors, picture(64, 96))
    assert session.mask.shape == (64, 96)
    assert 0 <= session.predicted_iou <= 1
    np.testing.assert_array_equal(again.mask, session.mask)


def test_needs_no_widgets():
    code = "import sys; import labhelpers.prompting; print({'ipywidgets', 'anywidget'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
