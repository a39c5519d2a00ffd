"""U-Net: the paper's arithmetic, sizes, variants, and gradient checkpointing that changes no number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labhelpers.models import UNet, build
from labhelpers.models.unet import double_conv, pad_to_multiple

VARIANTS = [
    {},
    {"up": "bilinear"},
    {"skip": "add"},
    {"skip": "none"},
    {"down": "conv"},
    {"batch_norm": False},
    {"checkpointing": True},
]


def unet(num_classes: int = 3, seed: int = 0, **options) -> UNet:
    torch.manual_seed(seed)
    return UNet(num_classes, base_channels=2, **options)


def sizes_inside(model: UNet, images: torch.Tensor) -> list[tuple[int, ...]]:
    """(C, H, W) behind each double convolution and behind the scores, in the order in which they are computed."""
    found, hooks = [], []
    for block in (*model.contracting, *model.expanding, model.score):
        hooks.append(block.register_forward_hook(lambda _, __, out: found.append(tuple(out.shape[1:]))))
    model(images)
    for hook in hooks:
        hook.remove()
    return found


def test_the_paper_s_sizes_halving_and_doubling_exactly():
    with torch.device("meta"):
        found = sizes_inside(build("unet", num_classes=2), torch.empty(1, 3, 512, 512))
    down = [(64, 512, 512), (128, 256, 256), (256, 128, 128), (512, 64, 64), (1024, 32, 32)]
    assert found == [*down, *down[-2::-1], (2, 512, 512)]


@pytest.mark.parametrize(("name", "millions"), [("unet", 31.04), ("unet_bilinear", 34.52)])
def test_parameters(name, millions):
    """Counted by hand for the transposed one: 3x3 convolutions 28.25, 2x2 up-convolutions 2.79 million."""
    with torch.device("meta"):
        model = build(name, num_classes=2)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_any_size_gives_logits_of_that_size_and_gradients_reach_everything(options):
    model = unet(**options)
    for size in ((1, 1), (16, 33), (37, 50)):
        logits = model(torch.randn(2, 3, *size))
        assert logits.shape == (2, 3, *size)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_two_maps_that_add_up_to_one():
    p = unet(2)(torch.randn(1, 3, 32, 32)).softmax(1)
    torch.testing.assert_close(p.sum(1), torch.ones(1, 32, 32))


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


@pytest.mark.parametrize("options", [{}, {"up": "bilinear"}], ids=str)
def test_export(options):
    model = unet(**options).eval()
    images = torch.randn(1, 3, 37, 50)
    exported = torch.export.export(model, (images,)).module()
    torch.testing.assert_close(exported(images), model(images))


def test_convolutions_start_with_the_paper_s_spread():
    """Standard deviation sqrt(2 / N), N the inputs of one output (Section 3 of the paper)."""
    torch.manual_seed(0)
    conv = UNet(2, base_channels=16).contracting[2][0]
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": "sum"}, "unknown skip 'sum'; known: concat, add, none"),
        ({"down": "avg"}, "unknown down 'avg'; known: max, conv"),
        ({"up": "nearest"}, "unknown up 'nearest'; known: transposed, bilinear"),
    ],
)
def test_unknown_variants_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        unet(**options)


@pytest.mark.parametrize("name", ["unet", "unet_bilinear"])
def test_nobody_published_weights(name):
    with pytest.raises(ValueError, match="pretrained=True: nobody published weights"):
        build(name, pretrained=True)


def test_double_conv_without_batch_norm_has_biases():
    assert [type(m).__name__ for m in double_conv(3, 4)] == 2 * ["Conv2d", "BatchNorm2d", "ReLU"]
    bare = double_conv(3, 4, batch_norm=False)
    assert [type(m).__name__ for m in bare] == 2 * ["Conv2d", "ReLU"]
    assert all(m.bias is not None for m in bare if isinstance(m, nn.Conv2d))
