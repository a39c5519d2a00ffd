"""torchvision's DeepLabV3 and ours are the same network under other names."""

import hashlib

import pytest
import torch

from labhelpers.models import build, published_deeplabv3
from labhelpers.models import encoders as encoders_module
from labhelpers.models.deeplab import from_torchvision


def torchvisions(aux_loss: bool = True):
    """torchvision's own model, random weights, batch norm's statistics not at their neutral start."""
    from torchvision.models.segmentation import deeplabv3_resnet50

    torch.manual_seed(0)
    model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=aux_loss)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.8, 1.2)
    return model.eval()


@pytest.mark.parametrize("aux_loss", [True, False])
def test_same_state_same_output(aux_loss):
    theirs = torchvisions(aux_loss)
    ours = build("deeplabv3", num_classes=21, backbone="resnet50", output_stride=8).eval()
    renamed = from_torchvision(theirs.state_dict())
    ours.load_state_dict(renamed)  # strict: nothing missing, nothing left over
    values = {id(tensor) for tensor in renamed.values()}
    kept = {id(tensor) for name, tensor in theirs.state_dict().items() if not name.startswith("aux_")}
    assert len(values) == len(kept)
    for size in ((97, 129), (64, 64)):
        images = torch.randn(1, 3, *size)
        with torch.inference_mode():
            expected = theirs(images)["out"]
            torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5)
            assert expected.std() > 1e-3  # not a constant, that any network would match


def test_another_models_state_is_refused():
    with pytest.raises(ValueError, match="'conv1.weight' is not part of torchvision's DeepLabV3"):
        from_torchvision({"conv1.weight": torch.zeros(1)})


def test_published_weights_are_the_file_with_its_hash(monkeypatch, tmp_path):
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

    theirs = torchvisions()
    file = tmp_path / "checkpoints" / "deeplab.pth"
    file.parent.mkdir()
    torch.save(theirs.state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    file = file.rename(file.with_name(f"deeplab-{digest}.pth"))
    kind = type(DeepLabV3_ResNet50_Weights.DEFAULT)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(kind, "url", property(lambda self: f"https://localhost/{file.name}"))
    model = published_deeplabv3().eval()
    assert model.weights == "coco"
    images = torch.randn(1, 3, 65, 65)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), theirs(images)["out"], rtol=1e-5, atol=1e-5)


def test_without_a_network_one_sentence_and_random_weights(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(encoders_module, "reachable", lambda url: False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert published_deeplabv3().weights == "random"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "deeplabv3_resnet50 starts from random weights instead of torchvision's" in printed


def test_unknown_backbone():
    with pytest.raises(ValueError, match="no published DeepLabV3 for backbone 'resnet18'; known: resnet50, resnet101"):
        published_deeplabv3("resnet18")
