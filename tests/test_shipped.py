"""The weights that come with the project."""

import numpy as np
import pytest
import torch

from labhelpers.models import build
from labhelpers.prompting import load_mini_sam, load_predictor, shipped
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
    assert path.stat().st_size - alone.stat().st_size < 0.3 * 2 * encoder  # two bytes each
    for model, num_classes in ((objects, 1), (classes, 21)):
        loaded = load_mini_sam(path, num_classes)
        assert not loaded.training
        for name, value in model.state_dict().items():
            expected = value.half().float() if value.is_floating_point() else value
            assert torch.equal(loaded.state_dict()[name], expected), name
            assert loaded.state_dict()[name].dtype == value.dtype


def test_half_precision_hardly_changes_an_answer(models, tmp_path):
    objects = models[0].eval()
    save_mini_sam(tmp_path / "one.safetensors", objects)
    loaded = load_mini_sam(tmp_path / "one.safetensors")
    images, points = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8), torch.tensor([[[20.0, 30.0]]])
    with torch.inference_mode():
        before, after = (model(images, points, torch.ones(1, 1, dtype=torch.long))[0] for model in (objects, loaded))
    assert torch.allclose(before, after, atol=0.02 * float(before.abs().max()))


def test_other_weights_are_refused(models, tmp_path):
    path = tmp_path / "one.safetensors"
    save_mini_sam(path, models[0])
    with pytest.raises(ValueError, match="does not fit MiniSAM"):
        load_mini_sam(path, num_classes=21)


def test_missing_weights_and_unknown_names(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="known: mini_sam, mini_sam_semantic"):
        load_predictor("sam")
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "labhelpers" / "prompting" / "shipped.py"))
    with pytest.raises(FileNotFoundError, match=r"checkpoints/mini_sam\.safetensors"):
        mini_sam_weights()


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
        assert (mask & truth).sum() / (mask | truth).sum() > 0.7
        assert 0.4 < iou <= 1


def test_the_semantic_head_names_a_class():
    predictor = load_predictor("mini_sam_semantic")
    predictor.set_image(np.full((64, 64, 3), 90, dtype=np.uint8))
    mask, _ = predictor.predict(points=np.array([[30, 30]]), labels=np.array([1]))
    assert mask.shape == (64, 64)
    assert predictor.class_name in ("aeroplane", "person") or isinstance(predictor.class_name, str)
