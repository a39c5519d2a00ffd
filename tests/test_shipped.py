"""The weights that come with the project."""

import numpy as np
import pytest
import torch

from labhelpers.models import build
from labhelpers.prompting import load_mini_sam, load_predictor, mask_iou, shipped
from labhelpers.prompting.shipped import mini_sam_weights, save_mini_sam


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    objects, classes = build("mini_sam", 1), build("mini_sam", 21)
    classes.image_encoder.load_state_dict(objects.image_encoder.state_dict())
    return objects, classes


def test_both_heads_come_back_and_share_the_encoder(models, tmp_path):
    objects, classes = models
    path = tmp_path / "both.safetensors"
    save_mini_sam(path, objects, classes, {"steps": "3"})
    alone = tmp_path / "one.safetensors"
    save_mini_sam(alone, objects)
    encoder = sum(p.numel() for p in objects.image_encoder.parameters())
    assert path.stat().st_size < 12e6
    assert path.stat().st_size - alone.stat().st_size < 0.3 * 2 * encoder  # two bytes each
    for model, num_classes in ((objects, 1), (classes, 21)):
        loaded = load_mini_sam(path, num_classes)
        assert not loaded.training
        for name, value in model.state_dict().items():
            expected = value.half().float() if value.is_floating_point() else value
            assert torch.equal(loaded.state_dict()[name], expected), name
            assert loaded.state_dict()[name].dtype == value.dtype


def test_other_weights_are_refused(models, tmp_path):
    path = tmp_path / "one.safetensors"
    save_mini_sam(path, models[0])
    with pytest.raises(ValueError, match=r"one\.safetensors does not fit MiniSAM with num_classes=21"):
        load_mini_sam(path, num_classes=21)


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path):
    model = build("mini_sam", 1)
    torch.nn.init.constant_(model.mask_head[-1].bias, 1e6)
    with pytest.raises(ValueError, match=r"a weight of shape \(3,\) is not finite in half precision"):
        save_mini_sam(tmp_path / "large.safetensors", model)


def test_missing_weights_and_unknown_names(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="unknown predictor 'sam'; known: mini_sam, mini_sam_semantic"):
        load_predictor("sam")
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "labhelpers" / "prompting" / "shipped.py"))
    with pytest.raises(FileNotFoundError, match=r"weights of Mini-SAM are missing .*checkpoints.mini_sam\.safetensors"):
        load_predictor("mini_sam")


def test_the_shipped_file_is_small_and_answers():
    assert mini_sam_weights().stat().st_size < 12e6
    predictor = load_predictor("mini_sam")
    image = np.full((96, 128, 3), 90, dtype=np.uint8)
    image[30:70, 40:90] = (220, 60, 40)
    predictor.set_image(image)
    truth = np.zeros((96, 128), bool)
    truth[30:70, 40:90] = True
    for prompt in ({"box": np.array([40, 30, 89, 69])}, {"points": np.array([[64, 50]]), "labels": np.array([1])}):
        mask, iou = predictor.predict(**prompt)
        assert mask_iou(mask, truth) > 0.7
        assert 0.4 < iou <= 1


def test_the_semantic_head_names_a_class():
    predictor = load_predictor("mini_sam_semantic")
    predictor.set_image(np.full((64, 64, 3), 90, dtype=np.uint8))
    mask, _ = predictor.predict(points=np.array([[30, 30]]), labels=np.array([1]))
    assert mask.shape == (64, 64)
    assert predictor.class_name in ("aeroplane", "person") or isinstance(predictor.class_name, str)
