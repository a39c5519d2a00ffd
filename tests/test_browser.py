"""The canvas in a real JupyterLab and a real browser: what is clicked, what Python gets, what is painted."""

import json
from pathlib import Path

import lab_browser
import nbformat
import numpy as np
import pytest
from PIL import Image
from prompting_toys import TOY_IMAGES, picture, toy_predictors

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
        if self.control("clear").is_enabled():
            self.control("clear").click()
        self.settle()

    def control(self, name):
        return self.page.locator(f"[data-control={name}]")

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
    """As if the window were dragged to another screen, or the page zoomed."""
    window.resize(width=640, density=2)
    try:
        canvas.page.evaluate("() => jupyterapp.shell.collapseLeft()")
        canvas.page.wait_for_function(
            """() => {
              const canvas = document.querySelector(".prompt-canvas canvas");
              return canvas.clientWidth < 600 && Math.abs(canvas.width - 2 * canvas.clientWidth) <= 2;
            }"""
        )
        canvas.click(0, 0)
        canvas.drag((70, 40), (120, 90))
        canvas.click(127, 95)
        assert canvas.prompts == ([[0, 0, 1], [127, 95, 1]], [70, 40, 120, 90])
        assert_painted(canvas, python_session(canvas))
        around = canvas.page.locator(".prompt-canvas").bounding_box()
        for control in canvas.page.locator(".prompt-canvas :is(button, select, input)").all():
            if control.is_visible():
                place = control.bounding_box()
                assert around["x"] <= place["x"]
                assert place["x"] + place["width"] <= around["x"] + around["width"]
    finally:
        window.resize(width=1300, density=1)


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
