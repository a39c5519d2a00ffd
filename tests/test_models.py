import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labhelpers.models import MODELS, ResNetEncoder, bilinear_kernel, build
from labhelpers.models import encoders as encoders_module

SMALL = {"backbone": "resnet18", "width": 8}
FCNS = ("fcn32s", "fcn16s", "fcn8s")


@pytest.fixture(params=FCNS)
def name(request):
    return request.param


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_encoder_equals_torchvision_with_the_same_weights(backbone):
    from torchvision.models import get_model

    theirs = get_model(backbone).eval()
    ours = ResNetEncoder(backbone).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        features = ours(images)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
        for feature, stage in zip(features, (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4), strict=True):
            x = stage(x)
            torch.testing.assert_close(feature, x)
    assert tuple(f.shape[1] for f in features) == ours.channels


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 97), width=st.integers(1, 97), name=st.sampled_from(FCNS))
def test_any_input_size(height, width, name):
    model = build(name, num_classes=5, **SMALL).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, height, width)).shape == (1, 5, height, width)


def test_gradients_reach_every_parameter(name):
    model = build(name, num_classes=5, **SMALL)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_score_layers_follow_the_encoder():
    model = build("fcn8s")
    assert (model.score_fr.in_channels, model.score_pool4.in_channels, model.score_pool3.in_channels) == (
        2048,
        1024,
        512,
    )
    assert [
        (m.kernel_size[0], m.stride[0], m.padding[0]) for m in (model.upscore2, model.upscore_pool4, model.upscore8)
    ] == [(4, 2, 1), (4, 2, 1), (16, 8, 4)]


def test_each_skip_changes_the_output():
    """Silencing one score layer must change the logits: a skip that is computed but not added would not."""
    model = build("fcn8s", num_classes=5, **SMALL).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = model(images)
        for layer in (model.score_fr, model.score_pool4, model.score_pool3):
            weight = layer.weight.clone()
            layer.weight.zero_()
            assert not torch.allclose(model(images), before)
            layer.weight.copy_(weight)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_transposed_convolution_starts_as_bilinear_interpolation(factor):
    """Away from the border, where the two differ in what they assume outside, both give the same numbers."""
    layer = nn.ConvTranspose2d(3, 3, 2 * factor, stride=factor, padding=factor // 2, bias=False)
    layer.weight.data.copy_(bilinear_kernel(3, 2 * factor))
    x = torch.randn(1, 3, 5, 6)
    theirs = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = (..., slice(factor, -factor), slice(factor, -factor))
    torch.testing.assert_close(layer(x)[inner], theirs[inner])


def test_a_translated_image_gives_translated_scores(name):
    """32 pixels are a whole number of cells at every stride; far from the borders the logits move along."""
    model = build(name, num_classes=3, **SMALL).eval()
    scene = torch.randn(1, 3, 64, 64)
    canvas = torch.zeros(2, 3, 1024, 1024)
    canvas[0, :, 480:544, 480:544] = scene
    canvas[1, :, 512:576, 512:576] = scene
    with torch.inference_mode():
        logits = model(canvas)
    torch.testing.assert_close(logits[0, :, 448:576, 448:576], logits[1, :, 480:608, 480:608], rtol=1e-4, atol=1e-4)


def test_export_and_script_give_the_same_numbers(name):
    model = build(name, num_classes=5, **SMALL).eval()
    images = torch.randn(1, 3, 64, 64)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


def test_unknown_names_list_the_known():
    with pytest.raises(ValueError, match="unknown model 'fcn4s'; known: fcn32s, fcn16s, fcn8s"):
        build("fcn4s")
    with pytest.raises(ValueError, match="unknown backbone 'vgg16'; known: resnet18"):
        build("fcn8s", backbone="vgg16")
    with pytest.raises(ValueError, match="pretrained=True needs width=64"):
        build("fcn8s", backbone="resnet18", width=8, pretrained=True)


def test_without_a_network_one_sentence_and_random_weights(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(encoders_module, "reachable", lambda url: False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    model = build("fcn8s", backbone="resnet18", pretrained=True)
    assert model.encoder.weights == "random"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "resnet18 starts from random weights" in printed


def test_pretrained_weights_are_the_published_file(monkeypatch, tmp_path):
    """The real loading code on a file that stands in for torchvision's, its hash in its name."""
    import hashlib

    from torchvision.models import ResNet18_Weights, resnet18

    state = resnet18().state_dict()
    file = tmp_path / "checkpoints" / "resnet18.pth"
    file.parent.mkdir()
    torch.save(state, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    file = file.rename(file.with_name(f"resnet18-{digest}.pth"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(type(ResNet18_Weights.DEFAULT), "url", property(lambda self: f"https://localhost/{file.name}"))
    encoder = ResNetEncoder("resnet18", pretrained=True)
    assert encoder.weights == "imagenet"
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_every_known_model_can_be_built():
    for known in MODELS:
        options = {"base_channels": 2} if known.startswith("unet") else {} if known == "mini_sam" else SMALL
        assert isinstance(build(known, num_classes=2, **options), nn.Module)
