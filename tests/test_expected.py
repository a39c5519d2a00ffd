"""The course's figures: complete, found by the names of rows, and printed with what they describe."""

import pytest

from labhelpers.evaluation import COURSE_MODELS, count_parameters, course_model, expected_table
from labhelpers.evaluation.results import NOTE


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("FCN-32s", ("59.4", "140", "35")),
        ("FCN-16s", ("61.2", "140", "38")),
        ("FCN-8s", ("63.1", "140", "42")),
        ("DeepLabV3+", ("77.5", "60", "80")),
        ("Mini-SAM", ("65 to 68", "5", "60")),
        ("SAM (zero-shot)", ("75.0", "636", "1,050")),
        ("SAM (fine-tuned)", ("82.0", "636", "1,050")),
    ],
)
def test_the_figures_of_the_course(name, figures):
    model = course_model(name)
    assert (model.mean_iou, model.parameters, model.inference_ms) == figures
    assert model.describes
    (row,) = (row for row in expected_table().rows if row[0] == name)
    assert tuple(row[2:5]) == figures


def test_every_lab_with_models_is_there_once():
    assert len({model.name for model in COURSE_MODELS}) == len(COURSE_MODELS)
    labs = [model.lab for model in COURSE_MODELS]
    assert labs == sorted(labs)
    assert {lab: labs.count(lab) for lab in labs} == {"02": 3, "03": 2, "04": 2, "05": 6, "06": 1, "07": 2}


@pytest.mark.parametrize(
    ("row", "model"),
    [
        ("FCN-8s", "FCN-8s"),
        ("FCN-8s, CE + Dice", "FCN-8s"),
        ("DeepLabV3", "DeepLabV3"),
        ("DeepLabV3+, own loss", "DeepLabV3+"),
        ("DeepLabV3+, resnet34", "DeepLabV3+, resnet34"),
        ("U-Net, bilinear", "U-Net, bilinear"),
        ("Mini-SAM, 21 classes, shipped", "Mini-SAM"),
        ("SAM (zero-shot), boxes", "SAM (zero-shot)"),
        ("FCN-8", None),
        ("SegFormer, mit_b0", None),
    ],
)
def test_a_variant_belongs_to_its_model(row, model):
    assert getattr(course_model(row), "name", None) == model


def test_what_the_note_says_about_our_networks():
    """The note names sizes of networks that are built here, so they can be counted."""
    import torch

    from labhelpers.models import build

    with torch.device("meta"):
        counts = {
            "on ResNet-50 FCN-8s has 24 M": build("fcn8s"),
            "on the ResNet-50 of lab 03 it has 40 M": build("deeplabv3plus"),
            "ours does have 5 M": build("mini_sam"),
        }
    for words, model in counts.items():
        assert words in NOTE
        assert f" {count_parameters(model) / 1e6:.0f} M" in words
