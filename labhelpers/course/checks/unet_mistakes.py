"""What known mistakes in a U-Net give, so that a check can name them by their numbers.

Everything is computed with the layers of the reference, which has the same weights as the student's network, and one by
one, so that an answer that is right costs nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from labhelpers.course.checks.networks import IN_PLACE, ConvNorm, Mistakes
from labhelpers.course.checks.unet_parts import wrong_doubles
from labhelpers.models.unet import pad_to_multiple

UNUSED = "{} gets no gradient: is it frozen, run under no_grad, or does its result not reach the logits?"
_JOIN = "expanding[0] joins what contracting[3] gives (before it is pooled), expanding[3] what contracting[0] gives"
ERRORS = IN_PLACE | {
    "must match except in dimension 1": f"skip and enlarged map differ in size: {_JOIN}.",
    "must match except in dimension": "skip and enlarged map are joined along another axis than the channels: "
    "torch.cat([skip, x], 1).",
    "must match the size": "are skip and enlarged map added? They are concatenated, torch.cat([skip, x], 1).",
    "channels, but got": "a layer is given another number of channels than it was made for: contracting[0] takes the "
    f"image; each up the map below it; each expanding [skip, enlarged map]. {_JOIN}.",
}
"""Hints for what torch says when layers do not fit together, for a size that is a multiple of 16."""

ODD_ERRORS = {
    "must match": "for a size that does not halve four times skip and enlarged map differ in size: pad the images to a "
    "multiple of 16 first, and crop the logits back.",
}


class Given(NamedTuple):
    """What a right network computes, by the names of its layers."""

    inputs: dict[str, Tensor]  # what contracting, up, expanding and score are given
    parts: dict[str, dict[str, Tensor]]  # what each of expanding joins: skip and enlarged map
    outputs: dict[str, Tensor]  # of contracting and expanding
    before: dict[str, str]  # the block that a layer's input comes from; for expanding, the skip


@torch.no_grad()
def given_to_layers(right: nn.Module, images: Tensor) -> Given:
    """images with sides that are multiples of 16."""
    given = Given({}, {}, {}, {})

    def run(name: str, block: nn.Module, x: Tensor) -> None:
        given.inputs[name], given.outputs[name] = x, block(x)

    for level, block in enumerate(right.contracting):
        name, before = f"contracting[{level}]", f"contracting[{level - 1}]"
        run(name, block, functional.max_pool2d(given.outputs[before], 2) if level else images)
        given.before[name] = before
    before = name
    for place, (up, block) in enumerate(zip(right.up, right.expanding, strict=True)):
        name, skip = f"expanding[{place}]", f"contracting[{3 - place}]"
        given.inputs[f"up[{place}]"], given.before[f"up[{place}]"] = given.outputs[before], before
        given.parts[name] = {"the skip": given.outputs[skip], "the enlarged map": up(given.outputs[before])}
        run(name, block, torch.cat(list(given.parts[name].values()), 1))
        given.before[name], before = skip, name
    given.inputs["score"], given.before["score"] = given.outputs[before], before
    return given


@torch.no_grad()
def wrong_inputs(given: Given, blocks: dict[str, list[ConvNorm]], name: str) -> Mistakes:
    """What known mistakes give to a layer of contracting, up or score."""
    right, before = given.inputs[name], given.before[name]
    if name == "contracting[0]":
        pooled = functional.max_pool2d(right, 2)
        for x in (pooled, pad_to_multiple(pooled, 16)):
            yield x, "the image is pooled before contracting[0]: after it."
        yield functional.pad(right, (0, 16, 0, 16), mode="replicate"), "an image whose size fits is padded, too."
        return
    pools = name.startswith("contracting")
    if pools:
        yield from _wrong_pools(given.outputs[before], name)
    if name == "up[0]":
        pooled = functional.max_pool2d(right, 2)
        for x in (pooled, functional.interpolate(pooled, right.shape[-2:])):
            yield x, "the bottom is pooled once more: there are four poolings, none after contracting[4]."
        yield given.inputs[before], "contracting[4], the bottom, is not used."
    for wrong, hint in wrong_doubles(blocks[before], given.inputs[before], before):
        yield functional.max_pool2d(wrong, 2) if pools else wrong, hint


def _wrong_pools(x: Tensor, name: str) -> Mistakes:
    asked = f"before {name}: nn.MaxPool2d(2)"
    yield x, f"there is no pooling {asked}."
    yield functional.avg_pool2d(x, 2), f"there is an average {asked}."
    yield functional.max_pool2d(x, 4), f"the map is pooled to a quarter {asked}, once."
    yield functional.max_pool2d(x, 3, 2, 1), f"there is a pooling of 3x3 {asked}."
    for corner in (x[..., ::2, ::2], x[..., 1::2, 1::2]):
        yield corner, f"every other pixel is taken {asked}."


@torch.no_grad()
def wrong_parts(given: Given, blocks: dict[str, list[ConvNorm]], name: str, part: str) -> Mistakes:
    """What known mistakes give to a layer of expanding as ``part``, the skip or the enlarged map."""
    skip, enlarged = given.parts[name].values()
    yield skip + enlarged, f"{name} is given skip + enlarged map: concatenate the two."
    if part == "the enlarged map":
        yield enlarged.relu(), f"there is a ReLU after the up-convolution before {name}: leave it out."
        yield skip, f"{name} is given the skip twice, without the enlarged map."
        return
    source = given.before[name]
    yield enlarged, f"{name} is given the enlarged map twice, without the skip."
    yield torch.zeros_like(skip), f"{name} is given zeros for the skip: it is what {source} gives."
    after_one = blocks[source][0](given.inputs[source])
    yield after_one, f"the skip of {name} is taken after the first convolution of {source}: after both."
    pooled = functional.max_pool2d(skip, 2)
    for mode in ("nearest", "bilinear"):
        back = functional.interpolate(pooled, scale_factor=2, mode=mode)
        yield back, f"the skip of {name} is pooled and enlarged again: take what {source} gives."


def wrong_crops(whole: Tensor, images: Tensor) -> Mistakes:
    """What known mistakes make of the logits of the padded image."""
    height, width = images.shape[-2:]
    below, right = whole.shape[-2] - height, whole.shape[-1] - width
    crop = "crop the logits back to the size of the image, [..., :height, :width]"
    yield whole, f"the logits keep the size of the padded image: {crop}."
    yield whole[..., below:, right:], f"the logits are cropped at the left and at the top: {crop}."
    top, left = below // 2, right // 2
    yield whole[..., top : top + height, left : left + width], f"the logits are cropped on all sides: {crop}."
    yield whole[..., :width, :height], f"height and width are exchanged: {crop}."
    for mode in ("bilinear", "nearest"):
        resized = functional.interpolate(whole, (height, width), mode=mode)
        yield resized, f"the logits are resized, which moves every edge: {crop}."


def logits_shape_hint(logits: Tensor, expected: Tensor, images: Tensor) -> str:
    found, wanted = tuple(logits.shape), tuple(expected.shape)
    hint = f"forward gives shape {found} for images {images.shape[2]}x{images.shape[3]}, expected {wanted}"
    if 0 in found:
        return f"{hint}: [..., :-0] is empty, so crop with [..., :height, :width], which fits any padding."
    if len(found) == 3:
        return f"{hint}: logits keep one channel for each class, leave the argmax out."
    if len(found) == 4 and found[2:] == tuple(n // 2 for n in wanted[2:]):
        return f"{hint}: is the image pooled before contracting[0]? It works at full size."
    if len(found) == 4 and found[2] > wanted[2]:
        return f"{hint}: an image whose size fits already is not padded."
    return f"{hint}."
