"""The canvas in a real JupyterLab and a real browser: what is clicked, what Python gets, what is painted."""

import json
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import lab_browser
import nbformat
import numpy as np
import pytest
from PIL import Image
from prompting_toys import TOY_IMAGES, picture, toy_predictors

from labhelpers.data import VOCSegmentation, voc_palette
from labhelpers.prompting import PromptSession
from labhelpers.prompting.session import COLOURS, OPACITY

REASON = lab_browser.why_no_browser()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

NOTEBOOK = "clicks.ipynb"
# Every change is kept in a file, where the test reads what Python has.
CODE = """
from pathlib import Path
from prompting_toys import TOY_IMAGES, toy_predictors
from labhelpers.prompting import PromptCanvas, PromptSession

session = PromptSession(toy_predictors(), TOY_IMAGES)

def keep():
    Path("session.new").write_text(session.to_json())
    Path("session.new").replace("session.json")
    Path("asked").write_text(str(len(session.predictors["small"].asked)))

keep()
session.observe(keep)
PromptCanvas(session)
"""
SECONDS = 20  # for an answer, on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE)], metadata=kernel)
    nbformat.write(notebook, folder / NOTEBOOK)
    return folder


class Window:
    """A page whose width and density can change: Playwright itself fixes both when it opens one."""

    def __init__(self, browser):
        self.page = browser.new_context(no_viewport=True).new_page()
        self.devtools = self.page.context.new_cdp_session(self.page)

    def resize(self, width, density):
        metrics = {"width": width, "height": 1100, "deviceScaleFactor": density, "mobile": False}
        self.devtools.send("Emulation.setDeviceMetricsOverride", metrics)

    @contextmanager
    def narrow(self, width, density):
        """As if the window were dragged to a smaller, denser screen, with the file browser folded away."""
        self.resize(width, density)
        try:
            self.page.evaluate("() => jupyterapp.shell.collapseLeft()")
            self.page.wait_for_function(
                """([width, density]) => {
                  const canvas = document.querySelector(".prompt-canvas canvas");
                  return canvas.clientWidth < width && Math.abs(canvas.width - density * canvas.clientWidth) <= 2;
                }""",
                arg=[width, density],
            )
            yield
        finally:
            self.resize(width=1300, density=1)

    @contextmanager
    def fingers(self):
        """A touch screen, and a function that puts fingers on it, moves or lifts them: {finger: (x, y)} are there."""
        self.devtools.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
        there = {}

        def touch(**places):
            kind = "touchStart" if places.keys() - there else "touchEnd" if there.keys() - places else "touchMove"
            there.clear()
            there.update(places)
            points = [{"x": x, "y": y, "id": ord(name)} for name, (x, y) in places.items()]
            self.devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        try:
            yield touch
        finally:
            self.devtools.send("Emulation.setTouchEmulationEnabled", {"enabled": False})


@pytest.fixture(scope="module")
def window(folder):
    with lab_browser.jupyter_lab(folder) as server, lab_browser.browser() as browser:
        window = Window(browser)
        window.resize(width=1300, density=1)
        lab_browser.run_all(window.page, server, NOTEBOOK)
        window.page.wait_for_selector(".prompt-canvas canvas[data-painted]", timeout=1000 * lab_browser.START)
        window.page.set_default_timeout(1000 * SECONDS)
        yield window


@pytest.fixture
def canvas(window, folder):
    canvas = Canvas(window.page, folder)
    canvas.reset()
    return canvas


class Canvas:
    """The canvas on a page, by image pixels."""

    def __init__(self, page, folder):
        self.page, self.folder = page, folder
        self.canvas = page.locator(".prompt-canvas canvas")

    def reset(self):
        self.choose("image", "wide")
        self.choose("model", "small")
        self.control("fit").click()
        self.control("plus").click()
        for _ in range(self.objects.count()):
            self.objects.first.click()
            self.settle()
        if self.control("preview").get_attribute("aria-pressed") == "true":
            self.control("preview").click()  # a mask under the pointer, of which one test tells
        if self.control("clear").is_enabled():
            self.control("clear").click()
        self.settle()

    def control(self, name):
        return self.page.locator(f"[data-control={name}]")

    @property
    def objects(self):
        return self.control("objects").locator("button")

    def choose(self, control, name):
        self.control(control).select_option(name)
        self.settle()

    def settle(self):
        """Until every event so far has its answer, and that is on the screen."""
        self.page.wait_for_selector(".prompt-canvas:not([data-busy])")

    def place(self, x, y):
        """The middle of an image pixel on the page, while the whole image is shown."""
        width, height = self.size
        self.canvas.scroll_into_view_if_needed()
        box = self.canvas.bounding_box()
        return box["x"] + (x + 0.5) / width * box["width"], box["y"] + (y + 0.5) / height * box["height"]

    @property
    def recorded(self):
        return json.loads((self.folder / "session.json").read_text())

    @property
    def size(self):
        image = self.recorded["images"][self.control("image").input_value()]
        return image["width"], image["height"]

    @property
    def prompts(self):
        """Points and box of the current image, as Python has them."""
        image = self.recorded["images"][self.control("image").input_value()]
        return image["points"], image["box"]

    def click(self, x, y, **how):
        self.page.mouse.click(*self.place(x, y), **how)
        self.settle()

    def drag(self, start, end):
        self.page.mouse.move(*self.place(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.place(*end), steps=3)
        self.page.mouse.up()
        self.settle()

    def press(self, keys):
        self.page.keyboard.press(keys)
        self.settle()

    def pixels(self):
        """What the canvas shows at the middle of every image pixel: float (H, W, 3)."""
        width, height = self.size
        data = self.canvas.evaluate(
            """(canvas, [width, height]) => {
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              const colours = [];
              for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
                const column = Math.floor((x + 0.5) / width * canvas.width);
                const row = Math.floor((y + 0.5) / height * canvas.height);
                colours.push(...data.slice(4 * (row * canvas.width + column), 4 * (row * canvas.width + column) + 3));
              }
              return colours;
            }""",
            [width, height],
        )
        return np.array(data, dtype=float).reshape(height, width, 3)

    def text(self, name):
        return self.page.locator(f"[data-readout={name}]").inner_text()


def wait_until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def python_session(canvas) -> PromptSession:
    """The kernel's session, from its recording."""
    recorded = json.dumps({**canvas.recorded, "images": {}})
    return PromptSession.from_json(recorded, toy_predictors(), TOY_IMAGES | {"photo.jpg": picture(60, 40)})


def assert_painted(canvas, session, shown=True):
    """Every pixel that no point and no line covers has the image's colour, or that of the mask on it."""
    mask = session.mask if shown else np.zeros_like(session.mask)
    paint = np.array([int(COLOURS["mask"][i : i + 2], 16) for i in (1, 3, 5)])
    expected = np.where(mask[..., None], session.image + OPACITY * (paint - session.image), session.image)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    covered = np.zeros_like(mask)
    for px, py in session.points:
        covered |= (x - px) ** 2 + (y - py) ** 2 <= 8**2
    if session.box is not None:
        x0, y0, x1, y1 = session.box
        covered |= (np.minimum(abs(x - x0), abs(x - x1)) < 3) | (np.minimum(abs(y - y0), abs(y - y1)) < 3)
    for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
        covered |= mask != np.roll(mask, step, axis)
    off = np.abs(canvas.pixels() - expected).max(-1)
    assert (~covered).mean() > 0.5
    assert off[~covered].max() < 16, f"{(off[~covered] >= 16).sum()} pixels have another colour"


def test_clicks_arrive_at_their_pixels_and_the_mask_is_painted(canvas):
    canvas.click(30, 20)
    canvas.click(90, 70)
    canvas.click(42, 20, button="right")
    assert not canvas.page.locator(".lm-Menu, .jp-Menu").is_visible()
    canvas.page.keyboard.down("Shift")
    canvas.click(102, 70)
    canvas.page.keyboard.up("Shift")
    assert canvas.prompts == ([[30, 20, 1], [90, 70, 1], [42, 20, 0], [102, 70, 0]], None)
    session = python_session(canvas)
    assert session.mask[[20, 70, 20, 70], [30, 90, 42, 102]].tolist() == [True, True, False, False]
    assert_painted(canvas, session)
    assert canvas.text("clicks") == "4 clicks"
    assert canvas.text("iou") == f"predicted IoU {session.predicted_iou:.2f}"
    assert canvas.text("latency").endswith(" ms")


def test_drag_draws_a_box_and_keys_undo_redo_clear(canvas):
    canvas.click(100, 20)
    canvas.drag((70, 80), (20, 30))  # from the lower right: corners are sorted
    click, box = [[100, 20, 1]], [20, 30, 70, 80]
    assert canvas.prompts == (click, box)
    assert_painted(canvas, python_session(canvas))
    for key, prompts in (
        ("Control+z", (click, None)),
        ("Control+Shift+Z", (click, box)),
        ("c", ([], None)),
        ("Control+z", (click, box)),
    ):
        canvas.press(key)
        assert canvas.prompts == prompts
        assert_painted(canvas, python_session(canvas))


def test_keys_of_the_canvas_are_not_those_of_the_notebook(canvas):
    """In command mode M makes a Markdown cell, C copies one, and Z undoes what was done to cells."""
    canvas.click(64, 48)
    canvas.press("m")
    assert_painted(canvas, python_session(canvas), shown=False)
    assert canvas.control("mask").get_attribute("aria-pressed") == "false"
    canvas.press("m")
    assert_painted(canvas, python_session(canvas))
    cells = canvas.page.evaluate("() => jupyterapp.shell.currentWidget.content.widgets.map((cell) => cell.model.type)")
    assert cells == ["code"]


def test_keys_arrive_where_the_application_takes_them_first(canvas):
    """Notebook 7 listens on the document and lets no key through that it has a command for."""
    canvas.click(64, 48)
    canvas.page.evaluate(
        """() => {
          window.taken = (event) => event.stopPropagation();
          document.addEventListener("keydown", window.taken, { capture: true });
        }"""
    )
    try:
        canvas.press("Control+z")
    finally:
        canvas.page.evaluate("() => document.removeEventListener('keydown', window.taken, { capture: true })")
    assert canvas.prompts == ([], None)


def test_fast_clicks_are_all_kept_in_their_order(canvas):
    places = [(10, 10), (110, 15), (60, 50), (20, 80), (100, 85)]
    for x, y in places:
        canvas.page.mouse.click(*canvas.place(x, y))
    canvas.settle()
    assert canvas.prompts == ([[x, y, 1] for x, y in places], None)
    assert canvas.text("clicks") == "5 clicks"


def test_zoom_keeps_what_is_under_the_pointer(canvas):
    canvas.page.mouse.move(*canvas.place(96, 24))
    for _ in range(6):
        canvas.page.mouse.wheel(0, -100)
        canvas.page.wait_for_timeout(30)
    before = canvas.pixels()
    canvas.click(96, 24)
    assert canvas.prompts == ([[96, 24, 1]], None)
    assert np.ptp(before[..., 0]) < 40  # a part of the image, whose shades run from 90 to 217
    canvas.click(1, 1)  # the canvas's corner, which shows another pixel now
    x, y, _ = canvas.prompts[0][1]
    assert 50 < x < 96
    assert 5 < y < 24
    canvas.control("fit").click()
    assert_painted(canvas, python_session(canvas))


def test_choosers(canvas):
    canvas.click(30, 20)
    small = python_session(canvas).mask.sum()
    canvas.choose("model", "large")
    session = python_session(canvas)
    assert session.mask.sum() > 2 * small
    assert_painted(canvas, session)
    canvas.choose("model", "unsure")
    assert canvas.text("iou") == "predicted IoU –"
    assert canvas.text("latency").endswith(" ms")
    canvas.choose("image", "tall")
    canvas.page.wait_for_function(
        "() => document.querySelector('.prompt-canvas canvas').style.aspectRatio == '80 / 120'"
    )
    assert (canvas.text("clicks"), canvas.text("iou"), canvas.text("latency")) == ("0 clicks", "", "")
    canvas.click(79, 119)
    assert canvas.prompts == ([[79, 119, 1]], None)
    canvas.choose("image", "wide")
    assert canvas.prompts == ([[30, 20, 1]], None)


def test_upload(canvas, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.new("RGB", (60, 40), "orange").save(tmp_path / "photo.jpg", exif=exif)
    (tmp_path / "notes.jpg").write_text("not a picture")
    chooser = canvas.page.locator(".prompt-canvas input[type=file]")
    message = canvas.page.locator(".pc-message")
    chooser.set_input_files(tmp_path / "notes.jpg")
    canvas.page.wait_for_function("() => document.querySelector('.pc-message').textContent")
    assert message.inner_text().startswith("notes.jpg cannot be decoded")
    chooser.set_input_files(tmp_path / "photo.jpg")
    canvas.page.wait_for_function("() => document.querySelector('[data-control=image]').value == 'photo.jpg'")
    assert canvas.size == (40, 60)
    assert message.inner_text() == ""
    canvas.click(39, 59)
    assert canvas.prompts == ([[39, 59, 1]], None)


def test_a_narrow_page_on_a_dense_screen(canvas, window):
    with window.narrow(width=640, density=2):
        canvas.click(0, 0)
        canvas.drag((70, 40), (120, 90))
        canvas.click(127, 95)
        assert canvas.prompts == ([[0, 0, 1], [127, 95, 1]], [70, 40, 120, 90])
        assert_painted(canvas, python_session(canvas))
    canvas.choose("model", "nested")
    canvas.control("clear").click()
    canvas.click(64, 48)
    canvas.control("keep").click()
    canvas.click(64, 48)
    with window.narrow(width=400, density=1):
        around = canvas.page.locator(".prompt-canvas").bounding_box()
        for control in canvas.page.locator(".prompt-canvas :is(button, select, input, summary)").all():
            if control.is_visible():
                place = control.bounding_box()
                assert around["x"] <= place["x"]
                assert place["x"] + place["width"] <= around["x"] + around["width"]


def test_masks_to_choose_from(canvas):
    canvas.choose("model", "nested")
    canvas.click(64, 48)
    session = python_session(canvas)
    shown = canvas.control("candidates").locator("button")
    assert shown.all_inner_texts() == [f"Mask {n}: {c.predicted_iou:.2f}" for n, c in enumerate(session.candidates, 1)]
    for number, choose in enumerate([lambda: canvas.press("2"), lambda: shown.nth(2).click()], start=1):
        choose()
        canvas.settle()
        assert python_session(canvas).chosen == number
        assert [button.get_attribute("aria-pressed") for button in shown.all()].index("true") == number
        assert_painted(canvas, python_session(canvas))
    canvas.click(100, 48)
    assert shown.count() == 0  # two clicks leave less open
    assert_painted(canvas, python_session(canvas))


def test_a_preview_under_the_pointer_before_the_click(canvas):
    colour = [int(COLOURS["preview"][i : i + 2], 16) for i in (1, 3, 5)]
    image = TOY_IMAGES["wide"].astype(float)
    expected = image + OPACITY * (colour - image)

    def shown():
        return np.abs(canvas.pixels() - expected).max(-1) < 16

    canvas.click(10, 10)
    before = canvas.recorded, int((canvas.folder / "asked").read_text())
    canvas.page.mouse.move(*canvas.place(80, 60))
    assert not shown()[60, 80]
    canvas.control("preview").click()
    canvas.page.mouse.move(*canvas.place(20, 60))
    canvas.page.mouse.move(*canvas.place(80, 60), steps=60)
    wait_until(lambda: shown()[60, 80] and not shown()[60, 20])
    assert canvas.recorded == before[0]
    canvas.click(80, 60)
    assert_painted(canvas, python_session(canvas))  # until the pointer moves again
    asked = int((canvas.folder / "asked").read_text()) - before[1]
    assert 1 < asked < 40  # of 60 moves
    canvas.page.mouse.move(*canvas.place(20, 60))
    wait_until(lambda: shown()[60, 20])
    canvas.press("p")
    wait_until(lambda: not shown()[60, 20])


def test_what_a_click_says_can_be_switched(canvas):
    canvas.click(30, 20)
    canvas.control("minus").click()
    assert [canvas.control(name).get_attribute("aria-pressed") for name in ("plus", "minus")] == ["false", "true"]
    canvas.click(90, 70)
    canvas.press("x")
    canvas.click(60, 50)
    assert canvas.prompts[0] == [[30, 20, 1], [90, 70, 0], [60, 50, 1]]


def test_points_are_moved_and_deleted(canvas):
    for x, y in ((30, 20), (90, 70), (60, 50)):
        canvas.click(x, y)
    canvas.drag((90, 70), (110, 20))
    assert canvas.prompts == ([[30, 20, 1], [110, 20, 1], [60, 50, 1]], None)
    assert_painted(canvas, python_session(canvas))
    canvas.click(30, 20)  # selects it
    canvas.press("Delete")
    assert canvas.prompts[0] == [[110, 20, 1], [60, 50, 1]]
    assert canvas.control("delete").is_disabled()
    canvas.click(60, 50)
    canvas.press("Escape")
    assert canvas.control("delete").is_disabled()
    canvas.click(60, 50)
    canvas.control("delete").click()
    canvas.settle()
    assert canvas.prompts[0] == [[110, 20, 1]]
    assert_painted(canvas, python_session(canvas))
    canvas.press("Control+z")
    assert canvas.prompts[0] == [[110, 20, 1], [60, 50, 1]]


def test_objects_are_kept_and_exported(canvas, tmp_path):
    canvas.drag((20, 20), (60, 60))
    canvas.control("label").select_option("dog")
    canvas.control("keep").click()
    canvas.settle()
    canvas.click(100, 70)
    canvas.control("label").select_option("cat")
    canvas.canvas.focus()
    canvas.press("n")
    assert canvas.control("keep").is_disabled()
    assert canvas.objects.all_inner_texts() == ["1 dog ×", "2 cat ×"]
    assert canvas.prompts == ([], None)
    session = python_session(canvas)
    labels, objects = session.label_maps()
    painted = np.where(
        (objects > 0)[..., None], (session.image + voc_palette()[objects].astype(float)) / 2, session.image
    )
    wait_until(lambda: np.abs(canvas.pixels() - painted).max(-1).__lt__(16).mean() > 0.97)  # its edges are mixed
    with canvas.page.expect_download() as download:
        canvas.control("export").click()
    assert download.value.suggested_filename == "masks.zip"
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(tmp_path)
    dataset = VOCSegmentation(tmp_path, "trainval")
    image, target = dataset[0]
    np.testing.assert_array_equal(image.permute(1, 2, 0), session.image)
    np.testing.assert_array_equal(target, labels)
    np.testing.assert_array_equal(dataset.instances(0), objects)
    coco = json.loads((tmp_path / "instances.json").read_text())
    assert [annotation["area"] for annotation in coco["annotations"]] == [kept.mask.sum() for kept in session.objects]
    canvas.objects.first.click()
    canvas.settle()
    assert [kept.label for kept in python_session(canvas).objects] == ["cat"]


def test_keys_alone(canvas):
    canvas.control("model").focus()
    canvas.press("Tab")  # to the canvas
    for keys, times in (("ArrowRight", 2), ("Shift+ArrowRight", 1), ("ArrowUp", 3), ("Shift+ArrowDown", 2)):
        for _ in range(times):
            canvas.press(keys)
    x, y = 64 + 2 * 3 + 1, 48 - 3 * 3 + 2  # a 40th of the width is 3 pixels
    assert canvas.text("crosshair") == f"crosshair at {x}, {y}"
    canvas.press("Enter")
    for _ in range(8):
        canvas.press("ArrowLeft")
    canvas.press("Shift+Enter")
    assert canvas.prompts == ([[x, y, 1], [x - 24, y, 0]], None)
    canvas.press("Enter")  # picks the point up
    canvas.press("ArrowDown")
    canvas.press("Enter")
    assert canvas.prompts == ([[x, y, 1], [x - 24, y + 3, 0]], None)
    canvas.press("Delete")
    assert canvas.prompts == ([[x, y, 1]], None)
    canvas.press("b")
    for _ in range(10):
        canvas.press("ArrowDown")
        canvas.press("ArrowRight")
    canvas.press("Enter")
    assert canvas.prompts == ([[x, y, 1]], [x - 24, y + 3, x + 6, y + 33])
    canvas.press("n")
    assert [kept.label for kept in python_session(canvas).objects] == [canvas.control("label").input_value()]
    for _ in range(4):
        canvas.press("+")
    for _ in range(60):
        canvas.press("ArrowRight")  # what is seen follows, up to the edge
    canvas.press("Space")
    assert canvas.prompts[0] == [[127, y + 33, 1]]
    canvas.control("fit").click()
    canvas.canvas.focus()
    canvas.press("b")
    canvas.click(3, 90)  # with the mouse instead
    assert canvas.prompts == ([[127, y + 33, 1], [3, 90, 1]], None)
    assert canvas.text("crosshair") == ""


def test_fingers(canvas, window):
    def between(start, end, part):
        return tuple(a + part * (b - a) for a, b in zip(start, end, strict=True))

    with window.fingers() as touch:
        near, far = canvas.place(30, 30), canvas.place(90, 70)  # buttons are larger now
        touch(a=near)  # a tap
        touch()
        canvas.settle()
        assert canvas.prompts == ([[30, 30, 1]], None)
        touch(a=far)  # a drag
        for part in (0.1, 0.3, 0.5):
            touch(a=between(far, near, part))
        touch()
        canvas.settle()
        assert canvas.prompts == ([[30, 30, 1]], [60, 50, 90, 70])
        touch(a=between(near, far, 0.3))  # a drag that a second finger joins: it zooms, and nothing is drawn
        touch(a=between(near, far, 0.5))
        touch(a=between(near, far, 0.5), b=far)
        for part in (0.45, 0.35, 0.25):
            touch(a=between(near, far, part), b=far)
        touch(b=far)
        touch(b=between(near, far, 0.5))  # what is left of two fingers draws nothing either
        touch()
        touch(a=near)  # selects no point: that has moved
        touch()
        canvas.settle()
        points, box = canvas.prompts
        assert box == [60, 50, 90, 70]
        assert len(points) == 2
        # One and a half times as large, and what was at (75, 60), between the fingers, is at (67.5, 55).
        np.testing.assert_allclose(points[1][:2], (75 + (30 - 67.5) / 1.5, 60 + (30 - 55) / 1.5), atol=1)
        canvas.control("fit").click()
        near, far = canvas.place(30, 30), canvas.place(90, 70)
        touch(a=near)  # of a finger's width, on a point
        for part in (0.2, 0.4):
            touch(a=between(near, far, part))
        touch()
        canvas.settle()
        assert canvas.prompts[0] == [[54, 46, 1], points[1]]
        touch(a=between(near, far, 0.4))
        touch()
        canvas.control("delete").click()
        canvas.settle()
        assert canvas.prompts[0] == [points[1]]
    assert_painted(canvas, python_session(canvas))


def test_everything_has_an_accessible_name(canvas):
    """And whatever else axe-core knows to hinder people: no finding that it calls serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    canvas.choose("model", "nested")
    canvas.click(64, 48)
    canvas.control("keep").click()
    canvas.click(64, 48)
    canvas.page.locator(".prompt-canvas summary").click()
    results = Axe().run(canvas.page, ".prompt-canvas")
    found = [v for v in results.response["violations"] if v["impact"] in ("serious", "critical")]
    assert not found, results.generate_report()
    assert len(results.response["passes"]) > 10


def test_the_demo_as_a_page(window, tmp_path):
    """What `make demo` shows: the demo's notebook through Voila, with the shipped weights."""
    demo = Path(__file__).parent.parent / "notebooks" / "demo_minisam.ipynb"
    with lab_browser.voila(tmp_path, demo) as server:
        page = window.page.context.browser.new_page(viewport={"width": 900, "height": 1100})
        page.goto(server.page(""), timeout=1000 * lab_browser.START)
        page.wait_for_selector(".prompt-canvas canvas[data-painted]", timeout=1000 * lab_browser.START)
        page.locator(".prompt-canvas canvas").click(position={"x": 180, "y": 330})
        page.wait_for_selector("[data-readout=clicks]:has-text('3 clicks')", timeout=1000 * SECONDS)  # 2 at first
        assert page.locator("[data-readout=iou]").inner_text().startswith("predicted IoU 0.")
        assert page.locator(".pc-message").inner_text() == ""
        assert not page.get_by_text("from labhelpers.prompting import").is_visible()  # a page, without code
        page.close()
