"""Patch-wise inference: no seams, no weight lost, no more memory than promised."""

from itertools import count

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from labhelpers.data.augment import to_input
from labhelpers.evaluation import predict
from labhelpers.evaluation.tiles import tile_starts, tiled_logits
from labhelpers.models import UNet

RADIUS = 3


def convolutions() -> nn.Sequential:
    """Two convolutions that see 3 pixels far, without padding tricks: stride 1, zeros outside."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 3, 5, padding=2))


class Strided(nn.Sequential):
    """Pooling to a quarter and back: right only on the whole image's grid. A pixel sees at most 7 pixels far."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.MaxPool2d(4, ceil_mode=True), nn.Conv2d(3, 3, 3, padding=1), nn.Upsample(scale_factor=4))

    def forward(self, x):
        return super().forward(x)[..., : x.shape[-2], : x.shape[-1]]


def giving(change) -> nn.Module:
    model = nn.Conv2d(3, 2, 1)
    model.register_forward_hook(lambda module, given, output: change(output))
    return model


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def whole(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(to_input(image[None]))[0]


# --- where tiles begin ---


@settings(deadline=None)
@given(st.data())
def test_tiles_cover_the_axis_on_the_grid_and_share_the_overlap(data):
    multiple = data.draw(st.sampled_from([1, 2, 16]))
    tile = multiple * data.draw(st.integers(1, 12))
    overlap = multiple * data.draw(st.integers(0, tile // multiple - 1))
    length = data.draw(st.integers(1, 40 * multiple))
    *whole, last = tile_starts(length, tile, overlap, multiple)
    assert whole == [i * (tile - overlap) for i in range(-(-(length - tile) // (tile - overlap)))]  # no tile too many
    assert all(start + tile < length for start in whole)  # so that the last one is needed
    assert last % multiple == 0
    assert max(0, length - tile) <= last < max(0, length - tile) + multiple  # flush, or cut to stay on the grid


# --- the logits are those of the whole image ---


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(14, 24), st.integers(0, 13), st.integers(1, 5))
def test_tiles_equal_the_whole_image_beyond_the_reach_of_their_borders(height, width, tile, overlap, batch_size):
    model, image = convolutions(), picture(height, width)
    found = tiled_logits(model, image, tile, overlap, batch_size=batch_size, multiple=1)
    safe = torch.ones(height, width, dtype=torch.bool)
    for axis, length in enumerate((height, width)) if overlap < 4 * RADIUS else ():
        starts = tile_starts(length, tile, overlap, 1)
        for cut in [*starts[1:], *(start + tile for start in starts[:-1])]:  # where tiles begin and end inside the axis
            safe.transpose(0, axis)[max(0, cut - RADIUS) : cut + RADIUS] = False
    torch.testing.assert_close(found[:, safe], whole(model, image)[:, safe], rtol=0, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 100), st.integers(1, 100))
def test_strided_layers_see_the_grid_of_the_whole_image(height, width):
    model, image = Strided(), picture(height, width)
    found = tiled_logits(model, image, 48, 28, multiple=4)
    torch.testing.assert_close(found, whole(model, image), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("up", "radius"), [("transposed", 108), ("bilinear", 140)])  # 107 and 137, to multiples of 16
def test_a_unet_in_tiles_equals_the_whole_image(up, radius):
    torch.manual_seed(1)
    model = UNet(3, base_channels=2, up=up).eval()
    image = picture(40, 1013)  # long rather than large: quick, with a size that is no multiple of 16
    found = tiled_logits(model, image, 4 * radius + 144, 4 * radius, batch_size=2)
    torch.testing.assert_close(found, whole(model, image), rtol=0, atol=1e-4)


def test_one_tile_is_the_whole_image():
    model, image = convolutions(), picture(30, 33)
    assert torch.equal(tiled_logits(model, image).argmax(0), predict(model, image).long())


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_constant_network_stays_constant_for_the_weights_add_up_to_one(data):
    tile = data.draw(st.integers(1, 30))
    overlap = data.draw(st.integers(0, tile - 1))
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 30))
    model = nn.Conv2d(3, 2, 1)
    nn.init.zeros_(model.weight)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([3.0, -5.0]))
    found = tiled_logits(model, picture(height, width), tile, overlap, multiple=1)
    expected = torch.tensor([3.0, -5.0])[:, None, None].expand(2, height, width)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_tile_counts_nothing_beside_its_border_and_fades_in_linearly():
    calls = count()
    which_tile = giving(lambda x: torch.full_like(x[:, :1], next(calls)))  # 0 in the first tile, 1 in the second
    share = tiled_logits(which_tile, picture(4, 24), 16, 8, batch_size=1, multiple=1)[0]
    expected = torch.tensor([0.0] * 10 + [1 / 8, 3 / 8, 5 / 8, 7 / 8] + [1.0] * 10)
    torch.testing.assert_close(share, expected.expand(4, 24))


# --- memory, modes, mistakes ---


def test_never_more_than_batch_size_tiles_at_once():
    model, seen = nn.Conv2d(3, 2, 1), []
    model.register_forward_hook(lambda module, given, output: seen.append(output.shape))
    tiled_logits(model, picture(50, 60), 16, 4, batch_size=3, multiple=4)
    rows, columns = (len(tile_starts(length, 16, 4, 4)) for length in (50, 60))
    assert sum(shape[0] for shape in seen) == rows * columns
    assert max(shape[0] for shape in seen) == 3
    assert all(max(shape[2:]) <= 16 for shape in seen)


def test_the_model_keeps_its_mode_and_statistics():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.9)).train()
    model[1].eval()
    first = tiled_logits(model, picture(20, 20), 16, 4, multiple=1)
    assert [module.training for module in model] == [True, False, True]
    assert torch.equal(first, tiled_logits(model, picture(20, 20), 16, 4, multiple=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": picture(9, 9).float()}, r"uint8 image \(3, H, W\), got torch.float32 \(3, 9, 9\)"),
        ({"image": picture(9, 9)[None]}, r"got torch.uint8 \(1, 3, 9, 9\)"),
        ({"overlap": 64}, "overlap=64 must be at least 0 and below tile=64"),
        ({"overlap": -16}, "overlap=-16 must be at least 0"),
        ({"tile": 72}, "tile=72 is not a multiple of 16.* take 64 or 80"),
        ({"overlap": 10}, "overlap=10 is not a multiple of 16.* take 0 or 16"),
        ({"multiple": 0}, "multiple=0 must be at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"precision": "half"}, "unknown precision 'half'; known: no, bf16, fp16"),
        (
            {"model": giving(lambda x: x[..., ::2, ::2])},
            r"logits \(1, 2, 5, 5\) for images \(1, 3, 9, 9\); wanted \(1, 'K', 9, 9\)",
        ),
        ({"model": giving(lambda x: {"out": x})}, "returned a dict"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {"model": nn.Conv2d(3, 2, 1), "image": picture(9, 9), "tile": 64, "overlap": 16} | change
    with pytest.raises(ValueError, match=message):
        tiled_logits(**arguments)
