import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labhelpers.models import (
    ASPP,
    DeepLabHeadPlus,
    MobileNetV3Encoder,
    ResNetEncoder,
    build,
    build_encoder,
)
from labhelpers.models.deeplab import RATES, PooledBatchNorm2d

DEEPLABS = ("deeplabv3", "deeplabv3plus")
SMALL = {"backbone": "resnet18", "width": 8, "channels": 16}
BACKBONES = {"resnet18": {"width": 8}, "resnet50": {"width": 8}, "mobilenet_v3_small": {}, "mobilenet_v3_large": {}}


@pytest.fixture(params=DEEPLABS)
def name(request):
    return request.param


# --- encoders at a smaller output stride -----------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilation_computes_the_same_features_on_a_finer_grid(backbone, output_stride):
    """Dilation in place of stride with the same weights: every second (or fourth) position is the strided feature."""
    strided = ResNetEncoder(backbone, width=8).eval()
    dense = ResNetEncoder(backbone, width=8, output_stride=output_stride).eval()
    dense.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 97, 131)
    with torch.inference_mode():
        for coarse, fine, s, t in zip(strided(images), dense(images), strided.strides, dense.strides, strict=True):
            assert t == min(s, output_stride)
            step = s // t
            torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101"])
def test_dilations_are_torchvisions(backbone):
    from torchvision.models import get_model

    for output_stride, replaced in {16: [False, False, True], 8: [False, True, True]}.items():
        ours = ResNetEncoder(backbone, output_stride=output_stride)
        theirs = dict(get_model(backbone, replace_stride_with_dilation=replaced).named_modules())
        for key, module in ours.named_modules():
            if isinstance(module, nn.Conv2d):
                expected = theirs[key]
                for field in ("stride", "dilation", "padding", "kernel_size"):
                    assert getattr(module, field) == getattr(expected, field), (key, field)


@pytest.mark.parametrize("name", ["mobilenet_v3_large", "mobilenet_v3_small"])
def test_mobilenet_equals_torchvision_with_the_same_weights(name):
    from torchvision.models import get_model

    theirs = get_model(name).eval()
    ours = MobileNetV3Encoder(name).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("classifier.")})
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        features = ours(images)
        torch.testing.assert_close(features[3], theirs.features(images))
    assert tuple(f.shape[1] for f in features) == ours.channels
    assert [64 // f.shape[2] for f in features] == [4, 8, 16, 32]


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_features_have_the_strides_that_the_encoder_tells(backbone, output_stride):
    encoder = build_encoder(backbone, output_stride=output_stride, **BACKBONES[backbone]).eval()
    with torch.inference_mode():
        features = encoder(torch.randn(1, 3, 65, 97))
    for feature, channels, stride in zip(features, encoder.channels, encoder.strides, strict=True):
        assert feature.shape == (1, channels, -(-65 // stride), -(-97 // stride))
    assert encoder.strides[3] == output_stride


def test_depthwise_convolutions_are_dilated_too():
    """Of MobileNetV3's last stage: its 5x5 convolutions, and their padding of twice the dilation."""
    encoder = MobileNetV3Encoder("mobilenet_v3_large", output_stride=16)
    depthwise = [m for m in encoder.features[13:].modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    found = [(m.kernel_size[0], m.stride[0], m.dilation[0], m.padding[0]) for m in depthwise]
    assert found == [(5, 1, 1, 2), (5, 1, 2, 4), (5, 1, 2, 4)]


# --- ASPP and the heads ----------------------------------------------------------------------------------------------


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
        pooled = aspp.branches(x)[-1]
        moved = aspp.branches(x.roll((2, 3), (2, 3)))[-1]
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
    found = norm(x)
    torch.testing.assert_close(found, (x - norm.running_mean.view(1, 3, 1, 1)) / (4.0 + norm.eps) ** 0.5)
    assert norm.num_batches_tracked == 0  # and leaves them as they are
    several, plain, ours = torch.randn(4, 3, 1, 1), nn.BatchNorm2d(3), PooledBatchNorm2d(3)
    torch.testing.assert_close(ours(several), plain(several))  # with more values it is batch norm
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_training_with_one_image(name):
    model = build(name, num_classes=5, **SMALL)
    model(torch.randn(1, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_low_level_features_are_projected_to_48():
    head = DeepLabHeadPlus(2048, 256, 21, RATES[16], 256)
    assert (head.project[0].in_channels, head.project[0].out_channels) == (256, 48)
    assert head.refine[0][0].in_channels == 256 + 48
    logits = head.eval()(torch.randn(1, 256, 17, 25), torch.randn(1, 2048, 5, 7))
    assert logits.shape == (1, 21, 17, 25)


def test_both_inputs_of_the_decoder_matter():
    head = DeepLabHeadPlus(16, 8, 5, rates=(1, 2), channels=16).eval()
    low, last = torch.randn(1, 8, 16, 16), torch.randn(1, 16, 4, 4)
    with torch.inference_mode():
        before = head(low, last)
        assert not torch.allclose(head(torch.randn_like(low), last), before)
        assert not torch.allclose(head(low, torch.randn_like(last)), before)


# --- the models ------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(height=st.integers(33, 97), width=st.integers(33, 97), output_stride=st.sampled_from([8, 16]), data=st.data())
def test_any_input_size(height, width, output_stride, data):
    name = data.draw(st.sampled_from(DEEPLABS))
    model = build(name, num_classes=5, output_stride=output_stride, **SMALL).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, height, width)).shape == (1, 5, height, width)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone(name, backbone):
    model = build(name, num_classes=4, backbone=backbone, channels=16, **BACKBONES[backbone]).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 33, 65)).shape == (1, 4, 33, 65)


@pytest.mark.parametrize("options", [{}, {"separable": True}, {"output_stride": 8}], ids=str)
def test_gradients_reach_every_parameter(name, options):
    torch.manual_seed(0)
    model = build(name, num_classes=5, **SMALL, **options)
    # Four images: of two, batch norm behind the pooling makes +-1 whatever they are, and its 1x1 would learn nothing.
    logits = model(torch.randn(4, 3, 97, 97))
    (logits * torch.randn_like(logits)).sum().backward()
    largest = max(p.grad.abs().max() for p in model.parameters() if p.grad is not None)
    without = [n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-7 * largest]
    assert without == []


def test_rates_follow_the_output_stride(name):
    def rates(**options):
        return [conv[0].dilation[0] for conv in build(name, **SMALL, **options).head.aspp.atrous_convs]

    assert rates() == rates(output_stride=16) == [6, 12, 18]
    assert rates(output_stride=8) == [12, 24, 36]
    assert rates(output_stride=8, rates=(3, 6, 9)) == [3, 6, 9]


def test_export_gives_the_same_numbers(name):
    model = build(name, num_classes=5, **SMALL).eval()
    images = torch.randn(1, 3, 65, 97)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


def _assert_compiles(name, backend):
    model = build(name, num_classes=5, **SMALL).eval()
    images = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        compiled = torch.compile(model, backend=backend, fullgraph=True)(images)
        torch.testing.assert_close(compiled, model(images), rtol=1e-4, atol=1e-4)


def test_one_graph_holds_the_whole_model(name):
    _assert_compiles(name, "aot_eager")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_code_gives_the_same_numbers():
    _assert_compiles("deeplabv3plus", "inductor")


def test_both_heads_learn_one_image(name):
    torch.manual_seed(0)
    model = build(name, num_classes=3, rates=(1, 2, 3), **SMALL)
    images = torch.randn(1, 3, 64, 64)
    target = torch.zeros(1, 64, 64, dtype=torch.long)
    target[:, 16:48, 16:32], target[:, 16:48, 32:48] = 1, 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = nn.functional.cross_entropy(model(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


def test_bad_arguments_are_named(name):
    with pytest.raises(ValueError, match="output_stride=4: known are 8, 16 and 32"):
        build(name, output_stride=4, **SMALL)
    with pytest.raises(ValueError, match="output_stride=32 has no published rates"):
        build(name, output_stride=32, **SMALL)
    with pytest.raises(ValueError, match="width=24 is for ResNets; mobilenet_v3_large has one width"):
        build(name, backbone="mobilenet_v3_large", width=24)
    with pytest.raises(ValueError, match="unknown backbone 'vgg16'; known: resnet18, .*mobilenet_v3_small"):
        build(name, backbone="vgg16")
