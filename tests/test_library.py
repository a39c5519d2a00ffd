"""Networks of segmentation-models-pytorch and MONAI behind this course's interface."""

import sys
import time

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from labhelpers.models import library
from labhelpers.models.deeplab import PooledBatchNorm2d
from labhelpers.models.library import ARCHITECTURES, build_smp, build_swin_unetr, drop_unused
from labhelpers.training import Recipe
from labhelpers.training.optim import build_optimizer

TIMM = "tu-mobilenetv3_small_050"  # 0.3 to 2 M parameters, so that a test takes a moment
PAIRS = [
    *((architecture, TIMM) for architecture in ARCHITECTURES),
    *((architecture, "efficientnet-b0") for architecture in ("unet", "pspnet")),  # whose head no decoder reads
    ("pspnet", "resnet18"),
    ("pspnet", "mit_b0"),
    ("deeplabv3plus", "mobilenet_v2"),
    ("deeplabv3plus", "mit_b0"),
    ("segformer", "mit_b0"),
]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    torch.manual_seed(0)
    return build_smp(request.param, TIMM, num_classes=5)


@settings(max_examples=4, deadline=None)
@given(height=st.integers(33, 97), width=st.integers(33, 97))
def test_any_input_size(model, height, width):
    with torch.inference_mode():
        assert model.eval()(torch.randn(1, 3, height, width)).shape == (1, 5, height, width)


@pytest.mark.parametrize(("architecture", "encoder"), PAIRS)
def test_one_image_gives_every_parameter_a_gradient(architecture, encoder):
    """Of an odd size, in training: batch norm behind global pooling included, and nothing that the output ignores."""
    model = build_smp(architecture, encoder, num_classes=3).train()
    logits = model(torch.randn(1, 3, 65, 47))
    assert logits.shape == (1, 3, 65, 47)
    logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_numbers_are_those_of_smp(model):
    """Of a size that needs no padding, with the same weights."""
    theirs = getattr(smp, ARCHITECTURES[model.name.split()[0]])(TIMM, encoder_weights=None, classes=5).eval()
    missing, unexpected = theirs.load_state_dict(model.network.state_dict(), strict=False)
    assert unexpected == []  # ours has no parameter that smp lacks ...
    assert all(name.startswith("encoder.") for name in missing)  # ... and lacks only what the output ignores
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), theirs(images))


def test_padding_repeats_the_border(model):
    images = torch.randn(1, 3, 50, 70)
    padded = nn.functional.pad(images, (0, 26, 0, 14), mode="replicate")
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), model(padded)[..., :50, :70])


def test_parameters_are_registered_once_and_in_two_groups(model):
    names = list(model.state_dict())
    assert len(names) == len(set(names))
    tensors = [t.data_ptr() for t in model.state_dict().values() if t.numel()]
    assert len(tensors) == len(set(tensors))
    recipe = Recipe(steps=1, lr=0.1, backbone_factor=0.1, optimizer="adamw")
    head, encoder = build_optimizer(model, recipe).param_groups
    assert (head["lr"], encoder["lr"]) == (0.1, pytest.approx(0.01))
    assert {id(p) for p in encoder["params"]} == {id(p) for p in model.encoder.parameters()}
    assert {id(p) for p in model.parameters()} == {id(p) for p in head["params"] + encoder["params"]}


def test_export_gives_the_same_numbers(model):
    if model.name.split()[0] not in ("unet", "deeplabv3plus"):
        pytest.skip("exporting takes seconds, so two of the five do")
    images = torch.randn(1, 3, 65, 47)
    exported = torch.export.export(model.eval(), (images,)).module()
    torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-5)


def test_names_and_options():
    model = build_smp("deeplabv3plus", TIMM, num_classes=4, decoder_channels=32, decoder_atrous_rates=(1, 2, 3))
    assert (model.name, model.weights) == ("deeplabv3plus tu-mobilenetv3_small_050", "random")
    assert model.network.segmentation_head[0].in_channels == 32
    assert [type(m).__name__ for m in model.modules()].count(PooledBatchNorm2d.__name__) == 1


def test_pspnet_ends_where_its_decoder_begins():
    """smp's keeps the stages of the encoder that it never runs, nine tenths of its parameters."""
    ours, theirs = build_smp("pspnet", "resnet18", 3), smp.PSPNet("resnet18", encoder_weights=None, classes=3)
    count, counted = (sum(p.numel() for p in m.parameters()) for m in (ours, theirs))
    assert counted - count == sum(
        p.numel() for stage in (theirs.encoder.layer3, theirs.encoder.layer4) for p in stage.parameters()
    )


# --- weights ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(library, "reachable", lambda url: False)


def stored(monkeypatch, path, state):
    """Let the hub's answer be a file with this state; returns the list of what was asked for."""
    asked = []

    def answer(repo_id, revision, name):
        asked.append((repo_id, revision))
        return path

    save_file({k: v.contiguous() for k, v in state.items()}, path)
    monkeypatch.setattr(library, "hub_weights", answer)
    return asked


@pytest.mark.parametrize("encoder", ["mobilenet_v2", TIMM])
def test_without_a_network_random_weights_at_once(offline, capsys, encoder):
    start = time.perf_counter()
    model = build_smp("unet", encoder, pretrained=True)
    assert time.perf_counter() - start < 2
    assert model.weights == "random"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith(f"No network: unet on {encoder} starts from random weights instead of ImageNet's")


@pytest.mark.parametrize("architecture", ["unet", "pspnet"])
def test_weights_of_smp(monkeypatch, tmp_path, architecture):
    torch.manual_seed(1)
    state = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    asked = stored(monkeypatch, tmp_path / "model.safetensors", state)
    model = build_smp(architecture, "resnet18", pretrained=True)
    assert model.weights == "imagenet"
    settings = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    assert asked == [("smp-hub/resnet18.imagenet", settings["revision"])]
    ours = model.encoder.state_dict()
    assert {name.split(".")[0] for name in ours} >= {"conv1", "layer1", "layer2"}
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("encoder", [TIMM, f"{TIMM}.lamb_in1k"])
def test_weights_of_timm(monkeypatch, tmp_path, encoder):
    torch.manual_seed(1)
    state = timm.create_model("mobilenetv3_small_050").state_dict()
    asked = stored(monkeypatch, tmp_path / "model.safetensors", state)
    model = build_smp("unet", encoder, pretrained=True)
    assert model.weights == "imagenet"
    assert asked == [("timm/mobilenetv3_small_050.lamb_in1k", "main")]
    ours = model.encoder.model.state_dict()
    assert len(ours) > 100
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.items())


def test_weights_that_nobody_published(offline, monkeypatch, capsys):
    settings = dict(smp.encoders.encoders["resnet18"], pretrained_settings={"ssl": {}})
    monkeypatch.setitem(smp.encoders.encoders, "resnet18", settings)
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: None)
    for encoder in ("resnet18", TIMM):
        with pytest.raises(ValueError, match=f"pretrained=True: no ImageNet weights of {encoder} are known"):
            build_smp("unet", encoder, pretrained=True)
    assert capsys.readouterr().out == ""


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "encoder", "options", "message"),
    [
        ("unet3", "resnet18", {}, "unknown architecture 'unet3'; known: unet, unetplusplus, deeplabv3plus,"),
        ("unet", "resnet19", {}, r"unknown encoder 'resnet19'; .*get_encoder_names\(\) lists smp's, and tu-"),
        ("unet", "tu-resnet19", {}, r"unknown encoder 'tu-resnet19': .*timm.list_models\(\) lists them"),
        ("unet", "tu-resnet18.in99", {}, r"unknown encoder 'tu-resnet18.in99': .*\(in99\).*list_pretrained"),
        ("unet", "resnet18", {"dropout": 0.5}, "unet has no option dropout; known: .*decoder_channels"),
        ("unet", "resnet18", {"encoder_weights": "imagenet", "activation": None}, "no option activation, encoder_w"),
        # Combinations that do not work, before anything is asked of the network.
        (
            "deeplabv3plus",
            "tu-hrnet_w18",
            {"pretrained": True},
            r"deeplabv3plus on tu-hrnet_w18 \(AssertionError\)\. .* MobileNets and",
        ),
        ("deeplabv3plus", "densenet121", {}, r"deeplabv3plus on densenet121 \(ValueError: .*dilated mode"),
        ("unetplusplus", "mit_b0", {}, r"unetplusplus on mit_b0 \(.*\)\. Try this encoder with another architecture"),
        ("pspnet", "tu-hrnet_w18", {}, "pspnet tu-hrnet_w18: the architecture ignores parts of this encoder"),
        ("pspnet", TIMM, {"upsampling": 4}, r"pspnet .* makes \(1, 21, 32, 32\) of \(1, 3, 64, 64\): correct"),
    ],
)
def test_bad_arguments_are_named(capsys, architecture, encoder, options, message):
    with pytest.raises(ValueError, match=message):
        build_smp(architecture, encoder, **options)
    assert capsys.readouterr().out == ""


def test_hrnet_works_elsewhere():
    model = build_smp("unet", "tu-hrnet_w18", num_classes=2, decoder_channels=(32, 16, 8, 8, 8)).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 33, 64)).shape == (1, 2, 33, 64)


class _Toy(nn.Module):
    """A network with a branch whose result is dropped, and a module that is never called."""

    def __init__(self):
        super().__init__()
        self.score = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        self.branch = nn.Conv2d(2, 2, 1)
        self.never = nn.Linear(7, 7)

    def forward(self, x):
        self.branch(self.score(x))
        return self.score(x)


def test_what_the_output_ignores_is_left_out():
    toy = _Toy()
    before = {name: tensor.clone() for name, tensor in toy.state_dict().items()}
    drop_unused(toy, "toy")
    assert toy.training
    after = toy.state_dict()
    assert set(after) == {name for name in before if name.startswith("score.")}
    assert all(tensor.equal(before[name]) for name, tensor in after.items())  # the statistics of batch norm too


# --- Swin-UNETR ---


def monai():
    pytest.importorskip("monai", reason="MONAI is not installed: pip install labhelpers[monai]")


@pytest.mark.parametrize("size", [(33, 47), (64, 96)])
def test_any_size_and_a_gradient_for_every_parameter(size):
    monai()
    model = build_swin_unetr(num_classes=5, feature_size=12)
    assert (model.name, model.weights) == ("swin_unetr 12", "random")
    logits = model(torch.randn(1, 3, *size))
    assert logits.shape == (1, 5, *size)
    logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    encoder = {id(p) for p in model.encoder.parameters()}
    assert 0 < len(encoder) < len(list(model.parameters()))


def test_feature_size_must_fit_the_heads():
    monai()
    for size in (0, 20):
        with pytest.raises(ValueError, match=f"feature_size={size}: it must be a multiple of 12"):
            build_swin_unetr(feature_size=size)


@pytest.mark.parametrize("missing", ["monai.networks.nets", "einops"])
def test_without_the_extra_the_remedy_is_told(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "monai.networks.nets":
        monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ImportError, match=r'pip install "labhelpers\[monai\]", or leave this network out'):
        build_swin_unetr()
