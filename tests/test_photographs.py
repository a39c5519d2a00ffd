"""The photographs that packages bring, and how Mini-SAM does on the objects that we outlined in them.

photographs/NAME.png numbers the objects as VOC's SegmentationObject does: 0 is background, 255 the rim, one pixel to
either side of an outline, and what nobody can tell (whether the blur behind the cat's chin is the cat).
"""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from labhelpers.data import PHOTOGRAPHS, photographs
from labhelpers.data.reading import read_labels
from labhelpers.prompting import PromptSession, box_from_mask, load_predictor, mask_iou

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
OUTLINES = Path(__file__).parent / "photographs"
OBJECTS = {"astronaut": 2, "coffee": 2, "cat": 1, "rocket": 1, "admiral": 1}  # in each outline


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    if find_spec("skimage") is None:
        pytest.skip("scikit-image, which brings the photographs, is not installed")
    return photographs()


def test_all_are_here_without_a_word(images, capsys):
    assert list(photographs()) == list(PHOTOGRAPHS) == list(OBJECTS)
    assert capsys.readouterr().out == ""
    for image in images.values():
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert max(image.shape) <= 640


def test_a_missing_package_is_named_and_the_other_pictures_open(monkeypatch, capsys):
    monkeypatch.setattr(
        "labhelpers.data.packaged.find_spec", lambda name: find_spec(name) if name == "matplotlib" else None
    )
    assert list(photographs()) == ["admiral"]
    assert capsys.readouterr().out == (
        "Photographs that are not here: astronaut, coffee, cat, rocket. They come with: pip install scikit-image\n"
    )


def test_a_package_without_its_pictures_is_named_too(monkeypatch, capsys):
    """As on distributions that leave sample data out."""
    monkeypatch.setattr("labhelpers.data.packaged.find_spec", lambda _: find_spec("json"))
    assert photographs() == {}
    assert "pip install scikit-image matplotlib\n" in capsys.readouterr().out


def test_the_outlines_fit_the_pictures(images):
    for name, image in images.items():
        path = OUTLINES / f"{name}.png"
        labels = read_labels(path, voc_labels=21)
        assert labels.shape == image.shape[:2]
        assert set(np.unique(labels)) == {*range(OBJECTS[name] + 1), 255}
        assert path.stat().st_size < 10_000


def test_a_box_is_enough_for_mini_sam(images):
    """With today's weights .49 (the spoon) to .95 (the cat), .80 on average."""
    predictor, ious = load_predictor("mini_sam"), []
    for name, image in images.items():
        labels = read_labels(OUTLINES / f"{name}.png", voc_labels=21)
        predictor.set_image(image)
        for number in range(1, OBJECTS[name] + 1):
            mask, _ = predictor.predict(box=box_from_mask(labels == number))
            ious.append(mask_iou(mask, labels == number, labels == 255))
    assert min(ious) > 0.4
    assert np.mean(ious) > 0.75


@pytest.mark.parametrize("name", ["06_mini_sam", "demo_minisam"])
def test_a_canvas_opens_with_clicks_that_do_well(name, images):
    """What readers without a kernel see. With other weights these clicks may fail: then choose others, and run the
    notebooks again for their stored pictures."""
    cells = ["".join(cell["source"]) for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]]
    (opening,) = (cell for cell in cells if re.search(r"PromptCanvas\(session\)$", cell))
    session = PromptSession(load_predictor("mini_sam"), images)
    assert session.image_name == "astronaut"
    for x, y, no in re.findall(r"session\.add_point\((\d+), (\d+)(, label=0)?\)", opening):
        session.add_point(int(x), int(y), label=0 if no else 1)
    labels = read_labels(OUTLINES / "astronaut.png", voc_labels=21)
    assert mask_iou(session.mask, labels == 2, labels == 255) > 0.9
