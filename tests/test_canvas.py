"""The canvas without a browser: what it sends, what it understands, what it says when something goes wrong."""

import base64
import io
import json
import sys
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prompting_toys import DiscPredictor, picture

from labhelpers.prompting import PromptCanvas, PromptSession
from labhelpers.prompting import canvas as canvas_module
from labhelpers.prompting.canvas import decode_upload
from labhelpers.prompting.session import draw


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
        json.dumps(state)  # what is not JSON would not arrive

    def test_mask_state_and_number_travel_together(self, monkeypatch):
        canvas, messages = new_canvas(), []
        monkeypatch.setattr(canvas, "send_state", lambda key=None: messages.append(set(key)))
        send(canvas, "add_point", x=10, y=20, label=1)
        assert messages == [{"_mask", "_state", "_sequence"}]
        send(canvas, "switch_image", name="second")
        assert messages[1] == {"_picture", "_mask", "_state", "_sequence"}

    def test_box_undo_redo_clear(self):
        canvas = new_canvas()
        send(canvas, "add_box", x0=1, y0=2, x1=30, y1=40)
        assert canvas._state["box"] == [1, 2, 30, 40]
        send(canvas, "undo")
        assert (canvas._state["box"], canvas._state["can_redo"]) == (None, True)
        send(canvas, "redo")
        send(canvas, "clear")
        assert (canvas._state["points"], canvas._state["box"], canvas._state["can_undo"]) == ([], None, True)

    def test_what_changes_nothing_is_answered_too(self):
        canvas = new_canvas()
        sequence = canvas._sequence
        send(canvas, "undo")
        assert canvas._sequence == sequence + 1
        assert canvas._state["handled"] == "view:7"

    def test_a_cell_that_changes_the_session_changes_the_canvas(self):
        canvas = new_canvas()
        canvas.session.add_point(3, 4)
        assert canvas._state["points"] == [[3, 4, 1]]
        canvas.session.add_image("third", picture(10, 10))
        assert canvas._state["images"] == ["first", "second", "third"]

    def test_choosers(self):
        predictors = {"a": DiscPredictor("a", 3), "b": DiscPredictor("b", 9)}
        canvas = new_canvas(predictor=predictors)
        send(canvas, "add_point", x=30, y=30, label=1)
        send(canvas, "switch_model", name="b")
        assert (canvas._state["model"], canvas._state["models"]) == ("b", ["a", "b"])
        np.testing.assert_array_equal(shown_mask(canvas), canvas.session.mask)
        send(canvas, "switch_image", name="second")
        assert (canvas._state["image"], canvas._state["size"]) == ("second", [30, 20])
        assert Image.open(io.BytesIO(canvas._picture)).size == (30, 20)

    def test_a_click_on_a_picture_that_is_gone_is_not_taken_for_another(self):
        canvas = new_canvas()
        canvas.session.switch_image("second")
        send(canvas, "add_point", image="first", x=1, y=1, label=1)
        assert len(canvas.session.points) == 0
        assert "click again" in canvas._state["message"]
        send(canvas, "add_point", x=1, y=1, label=1)
        assert canvas._state["message"] == ""


class TestErrorsAreSaid:
    def test_of_the_session(self):
        canvas = new_canvas()
        send(canvas, "add_point", x=1000, y=0, label=1)
        assert canvas._state["message"].startswith("the point's x = 1000 lies outside the image 'first'")
        assert canvas._state["handled"] == "view:7"

    def test_of_the_predictor(self, capsys):
        class Fails(DiscPredictor):
            def predict(self, *args, **kwargs):
                raise RuntimeError("out of memory")

        canvas = new_canvas(predictor=Fails())
        send(canvas, "add_point", x=1, y=1, label=1)
        assert canvas._state["message"] == "RuntimeError: out of memory"
        assert canvas._state["points"] == []
        assert "Traceback" in capsys.readouterr().err

    def test_of_the_browser(self):
        canvas = new_canvas()
        send(canvas, "save", folder="/")
        assert canvas._state["message"] == "the canvas does not know the action 'save'"


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
        ("data", "message"),
        [
            (b"<html>404</html>", r"photo\.png is no picture that can be read: choose a JPEG"),
            (b"", "is no picture that can be read"),
            (as_file(Image.effect_noise((99, 99), 50), "jpeg")[:-90], "is no picture that can be read"),
        ],
    )
    def test_what_is_no_picture(self, data, message):
        canvas = new_canvas()
        self.upload(canvas, data)
        with pytest.raises(ValueError, match=message):
            decode_upload(data, "photo.png")
        assert canvas._state["message"].startswith("photo.png is no picture")
        assert canvas.session.image_names == ["first", "second"]

    def test_limits(self, monkeypatch):
        monkeypatch.setattr(canvas_module, "MAX_PIXELS", 1000)
        with pytest.raises(ValueError, match=r"large\.png has more than .* pixels: choose a smaller one"):
            decode_upload(as_file(Image.new("RGB", (100, 11))), "large.png")
        with pytest.raises(ValueError, match=r"huge\.png has 20\.0 MB, more than 20 MB: choose a smaller one"):
            decode_upload(bytes(20_000_001), "huge.png")

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

    @pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
    def test_every_kind_becomes_rgb(self, mode):
        kind = "tiff" if mode == "CMYK" else "png"
        pixels = decode_upload(as_file(Image.new(mode, (20, 10)), kind), "photo")
        assert (pixels.shape, pixels.dtype) == ((10, 20, 3), np.uint8)
        expected = 255 if mode in ("LA", "RGBA", "CMYK") else 0  # nothing there (or no ink) is white
        assert (pixels == expected).all()


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

    def test_the_mask_is_drawn_where_it_is(self):
        session = PromptSession(DiscPredictor(), picture(64, 64, shade=60))
        session.add_box(20, 10, 50, 40)
        drawn = np.asarray(draw(session)).astype(float)
        magenta = np.array([0xD6, 0x27, 0x8A])
        np.testing.assert_allclose(drawn[25, 35], (session.image[25, 35] + magenta) / 2, atol=1)
        np.testing.assert_array_equal(drawn[60, 60], session.image[60, 60])

    def test_points_differ_in_colour_and_in_sign(self):
        session = PromptSession(DiscPredictor(), picture(512, 512, shade=20)[:, :400])
        session.add_point(100, 200)
        session.add_point(300, 200, label=0)
        drawn = np.asarray(draw(session))
        assert drawn[203, 103].tolist() == [0, 0x9E, 0x73]
        assert drawn[203, 303].tolist() == [0xD5, 0x5E, 0]
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
