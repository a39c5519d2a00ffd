"""Mini-SAM: sizes, prompts that may be missing, what may not change the answer, and that it looks where one clicks."""

import functools
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from labhelpers.data.augment import to_input
from labhelpers.models import BaseMiniSAM, MiniSAM, build_encoder
from labhelpers.models.mini_sam import CHANNELS, DECODER, EMBEDDING, FINE, KEYS, Embedding, FineEmbedding
from labhelpers.models.prompt_maps import at_points, normalize, positions
from labhelpers.training.optim import encoder_of

SIZE = (64, 64)
NOWHERE = float("nan")
STRIDES = {"base": 4, "full": 8}  # of the positions at which a prompt is answered
KINDS = (("points", "point_labels"), ("boxes",), ("mask_input",))  # arguments of one kind of prompt
networks = pytest.mark.parametrize("network", STRIDES)
heads = pytest.mark.parametrize("num_classes", [1, 21])
each_kind = pytest.mark.parametrize(
    ("network", "kinds"), [*(("full", kinds) for kinds in KINDS), *(("base", kinds) for kinds in KINDS[:2])]
)
quick = settings(max_examples=8, deadline=None)


def new(network: str, num_classes: int = 1, backbone: str = "", pretrained: bool = False) -> BaseMiniSAM:
    """What lab 06 builds, on a slim encoder, or what ships, on its own; another one by name."""
    slim = {"backbone": "resnet18", "width": 8} if network == "base" else {"backbone": "efficientnet_lite0"}
    encoder = build_encoder(pretrained=pretrained, **({"backbone": backbone} if backbone else slim))
    return {"base": BaseMiniSAM, "full": MiniSAM}[network](encoder, num_classes)


def settle(network: str = "full", num_classes: int = 1, seed: int = 0) -> BaseMiniSAM:
    """Random weights, with batch-norm statistics of one batch, so that signals do not die out; in eval mode."""
    torch.manual_seed(seed)
    model = new(network, num_classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(photos(8), **taken(model, prompts(8)))
    return model.eval()


settled = functools.cache(settle)  # for tests that do not change it


def photos(batch: int, height: int = 64, width: int = 64) -> Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)


def prompts(batch: int, points: int = 3) -> dict[str, Tensor]:
    """One of each kind for images of 64 pixels."""
    corners = torch.rand(batch, 2, 2).mul(63).sort(dim=1).values
    return {
        "points": torch.rand(batch, points, 2) * 63,
        "point_labels": torch.randint(0, 2, (batch, points)),
        "boxes": corners.flatten(1),
        "mask_input": 3 * torch.randn(batch, 1, 16, 16),
    }


def only(given: dict[str, Tensor], *kinds: str) -> dict[str, Tensor]:
    return {name: value for name, value in given.items() if name in kinds}


def taken(model: BaseMiniSAM, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those that the network takes: the base knows no earlier mask."""
    return given if isinstance(model, MiniSAM) else only(given, "points", "point_labels", "boxes")


def plain(network: str, rows: int = 24, columns: int = 48, **parts: Tensor) -> Embedding:
    """The embedding of an image that is the same everywhere, of so many positions, but for `parts`."""
    size = (STRIDES[network] * rows, STRIDES[network] * columns)
    if network == "base":
        return Embedding(**({"features": torch.zeros(1, CHANNELS, rows, columns)} | parts), size=size)
    empty = {
        "features": torch.zeros(1, EMBEDDING, rows, columns),
        "decoder_part": torch.zeros(1, DECODER, rows, columns),
        "keys": torch.ones(1, KEYS, rows, columns),
        "fine": torch.zeros(1, FINE, 2 * rows, 2 * columns),
    }
    return FineEmbedding(**(empty | parts), size=size)


def said(model: BaseMiniSAM, embedding: Embedding, points=None, point_labels=None, boxes=None, **earlier) -> Tensor:
    """What the prompts say at each position, (B, C, h, w)."""
    with torch.inference_mode():
        return model.prompt_map(embedding, points, point_labels, boxes, **earlier)


def answers(model: BaseMiniSAM, *args, **kwargs) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        return model(*args, **kwargs)


def same(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> None:
    """Equal to within rounding: the logits here have a spread near 1."""
    torch.testing.assert_close(first, second, rtol=0, atol=1e-4)


def different(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> bool:
    return bool((first[0] - second[0]).abs().max() > 1e-2)


# --- sizes and names ---
PARTS = {"image_encoder", "img_proj", "point_type_embed", "point_pos_embed", "box_embed"}  # as in the handout,
PARTS |= {"mix", "decoder", "mask_head", "iou_head"}  # and `mix`


@heads
def test_parts_of_the_handout_are_shared_by_name(num_classes):
    """What ships has all parts of what lab 06 builds; those that it does not replace differ in width only."""
    with torch.device("meta"):
        base, full = (new(network, num_classes, "resnet18") for network in STRIDES)
    assert {name for name, _ in base.named_children()} == PARTS
    assert {name for name, _ in full.named_children()} >= PARTS
    replaced = ("image_encoder", "img_proj", "mask_head")
    kept = [{n for n in m.state_dict() if n.split(".")[0] in PARTS.difference(replaced)} for m in (base, full)]
    assert kept[0] == kept[1] != set()


@networks
@heads
def test_parameters_are_mostly_the_encoders_and_each_is_saved_once(num_classes, network):
    with torch.device("meta"):
        model = new(network, num_classes, "" if network == "full" else "resnet18")
    total = sum(p.numel() for p in model.parameters())
    assert network == "base" or 4e6 <= total <= 5.5e6
    assert sum(p.numel() for p in model.image_encoder.parameters()) > 4 / 5 * total  # it runs once for each image
    saved = model.state_dict(keep_vars=True).values()
    assert len({id(value) for value in saved}) == len(saved)


@networks
@heads
@quick
@given(height=st.integers(33, 100), width=st.integers(33, 100), points=st.integers(0, 4))
def test_any_size(num_classes, network, height, width, points):
    masks, ious = (3, 3) if num_classes == 1 else (21, 1)
    given = only(prompts(2, points), "points", "point_labels", "boxes")
    logits, iou = answers(settled(network, num_classes), photos(2, height, width), **given)
    assert logits.shape == (2, masks, height, width)
    assert iou.shape == (2, ious)
    assert ((iou >= 0) & (iou <= 1)).all()


def test_the_base_answers_at_stride_4():
    model = settled("base")  # outside, since it is kept: what is made in inference mode never learns
    with torch.inference_mode():
        embedding = model.encode(photos(2, 70, 97))
    assert embedding.features.shape == (2, 48, 18, 25)
    assert embedding.size == (70, 97)


@heads
def test_embedding_has_stride_8_and_256_channels_and_the_logits_stride_4(num_classes):
    model = settled("full", num_classes)
    with torch.inference_mode():
        embedding = model.encode(photos(2, 70, 97))
        coarse, iou = model.decode(embedding, full_size=False)
        full = model.decode(embedding)
    assert embedding.features.shape == (2, 256, 9, 13)
    assert embedding.size == (70, 97)
    assert coarse.shape == (2, 3 if num_classes == 1 else 21, 18, 26)
    same((model.enlarge(coarse, (70, 97)), iou), full)


def test_enlarging_keeps_positions():
    """A ramp over x, as the positions of stride 4 see it, is the ramp of the pixels, whatever is cut off."""
    ramp = (torch.arange(10.0) * 4 + 1.5).expand(1, 1, 6, 10)
    large = MiniSAM.enlarge(ramp, (22, 37))
    assert large.shape == (1, 1, 22, 37)
    inner = slice(2, 37)  # further out there is nothing to interpolate with
    torch.testing.assert_close(large[..., inner], torch.arange(37.0)[inner].expand(1, 1, 22, 35))


# --- prompts that are there, and prompts that are not ---
@networks
@heads
def test_each_kind_of_prompt_is_heard(num_classes, network):
    torch.manual_seed(0)
    model, images = settled(network, num_classes), photos(2)
    given = taken(model, prompts(2))
    nothing, all_of_it = answers(model, images), answers(model, images, **given)
    for kinds in KINDS if network == "full" else KINDS[:2]:
        alone = answers(model, images, **only(given, *kinds))
        assert different(alone, nothing), kinds
        assert different(alone, all_of_it), kinds


@networks
def test_each_edge_of_a_box_and_each_label_is_heard(network):
    torch.manual_seed(0)
    model, images, box = settled(network), photos(1), torch.tensor([[20.0, 18.0, 44.0, 40.0]])
    for edge in range(4):
        moved = box.clone()
        moved[0, edge] += 16
        assert different(answers(model, images, boxes=box), answers(model, images, boxes=moved)), edge
    points, labels = prompts(1, 1)["points"], torch.ones(1, 1, dtype=torch.long)
    assert different(answers(model, images, points, labels), answers(model, images, points, 0 * labels))


@networks
@quick
@given(real=st.integers(0, 4), padding=st.integers(0, 5), seed=st.integers(0, 999), rubbish=st.sampled_from([0, 1e6]))
def test_neither_padding_nor_the_order_of_points_changes_anything(network, real, padding, seed, rubbish):
    torch.manual_seed(seed)
    model, images = settled(network), photos(2)
    given = taken(model, prompts(2, real))
    order = torch.randperm(real + padding)
    padded = given | {
        "points": torch.cat([given["points"], torch.full((2, padding, 2), rubbish)], 1)[:, order],
        "point_labels": F.pad(given["point_labels"], (0, padding), value=-1)[:, order],
    }
    same(answers(model, images, **given), answers(model, images, **padded))


@networks
@heads
def test_a_mixed_batch_gives_what_each_gives_alone(num_classes, network):
    """A label of -1 is no point, a row with a NaN no box, and a mask with a NaN no mask."""
    torch.manual_seed(0)
    model, images, given = settled(network, num_classes), photos(5), prompts(5)
    given["point_labels"][[0, 3, 4]] = -1
    given["points"][3] = given["boxes"][[3, 4]] = given["mask_input"][3] = NOWHERE
    given["point_labels"][1, 1:] = -1
    given["boxes"][1, 3] = given["boxes"][4, 0] = NOWHERE
    given["mask_input"][[2, 4], :, 3, 5] = NOWHERE
    given = taken(model, given)
    together = answers(model, images, **given)
    given["points"], given["point_labels"] = list(given["points"]), list(given["point_labels"])
    for kind in ("points", "point_labels"):  # of the second image only one
        given[kind][1] = given[kind][1][:1]
    points, box, mask = KINDS
    alone = [
        answers(model, images[row, None], **{kind: given[kind][row][None] for kind in kinds if kind in given})
        for row, kinds in enumerate(([*box, *mask], [*points, *mask], [*points, *box], [], []))
    ]
    same(together, tuple(torch.cat(parts) for parts in zip(*alone, strict=True)))


# --- images and embeddings ---
@networks
def test_bytes_and_normalised_floats_give_the_same(network):
    model, images = settled(network), photos(2)
    given = taken(model, prompts(2))
    same(answers(model, images, **given), answers(model, to_input(images), **given))


@networks
def test_encoding_once_serves_every_click(network):
    torch.manual_seed(0)
    model, images = settled(network), photos(2, 50, 64)
    clicks = [taken(model, prompts(2)) for _ in range(2)]
    with torch.inference_mode():
        embedding = model.encode(images)
        repeated = model.decode(
            embedding.repeat(2),
            **{kind: torch.stack([click[kind] for click in clicks], 1).flatten(0, 1) for kind in clicks[0]},
        )
        one_by_one = [model.decode(embedding, **click) for click in clicks]
    for click, answer in zip(clicks, one_by_one, strict=True):
        same(answer, answers(model, images, **click))
    same(repeated, tuple(torch.stack(parts, 1).flatten(0, 1) for parts in zip(*one_by_one, strict=True)))


class Click(nn.Module):
    """What runs at a click, on tensors alone, which is what can be exported."""

    def __init__(self, model: BaseMiniSAM, kind: type[Embedding]):
        super().__init__()
        self.model, self.kind = model, kind

    def forward(self, parts, **given):
        return self.model.decode(self.kind(**parts, size=SIZE), **given)


@networks
def test_a_click_can_be_exported(network):
    """So nothing in it depends on values: on a GPU no click waits for the device."""
    model = settled(network)
    given = taken(model, prompts(2))
    with torch.no_grad():
        embedding = model.encode(photos(2))
    parts = {field.name: getattr(embedding, field.name) for field in fields(embedding) if field.name != "size"}
    exported = torch.export.export(Click(model, type(embedding)), (parts,), given).module()
    same(exported(parts, **given), model.decode(embedding, **given))


@networks
@pytest.mark.parametrize("size", [(64, 64), (33, 97)])
def test_it_works_on_the_encoder_that_needs_no_network(size, network):
    model = new(network, 1, "efficientnet_lite0", pretrained=True).eval()
    assert encoder_of(model).weights == "imagenet"
    with torch.no_grad():
        logits, iou = model(photos(2, *size), **taken(model, prompts(2)))
    assert (logits.shape, iou.shape) == ((2, 3, *size), (2, 3))


@networks
def test_what_a_recipe_freezes_is_the_pretrained_part(network):
    model = new(network)
    pretrained = encoder_of(model)
    assert pretrained is (model.image_encoder.backbone if network == "full" else model.image_encoder)
    pretrained.requires_grad_(False)
    model(photos(2), **taken(model, prompts(2)))[0].mean().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert all(p.grad is None for p in pretrained.parameters())
    assert any("image_encoder" in name for name in trained) == (network == "full")  # what fuses the features learns
    assert {name.split(".")[0] for name in trained} >= PARTS - {"image_encoder", "iou_head"}


# --- where the click was ---
@given(height=st.integers(1, 90), width=st.integers(1, 90), stride=st.sampled_from([4, 8]))
@settings(max_examples=30, deadline=None)
def test_pixels_positions_and_features_agree_where_things_are(height, width, stride):
    """The centre of position (i, j) of stride 8 is pixel (8 j + 3.5, 8 i + 3.5), and there its own feature is read."""
    rows, columns = -(-height // stride), -(-width // stride)
    x, y = ((torch.arange(count) + 0.5) * stride - 0.5 for count in (columns, rows))
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    measured = positions((height, width), stride, torch.device("cpu"))
    torch.testing.assert_close(measured, normalize(centres, (height, width)))
    features = torch.randn(1, 16, rows, columns)
    read = at_points(features, centres.flatten(0, 1)[None], stride)
    torch.testing.assert_close(read, features.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)


@each_kind
def test_on_a_plain_image_the_prompt_map_moves_with_the_prompt(network, kinds):
    """What is said depends on offsets alone: a prompt 8 pixels further right and 16 further down says it there."""
    stride = STRIDES[network]
    image = plain(network, 80 // stride, 96 // stride)
    mask = torch.zeros(1, 1, 10, 12)
    mask[:, :, 2:4, 3:6] = 4.0
    given = {
        "points": torch.tensor([[[30.0, 21.0], [51.0, 40.0]]]),
        "point_labels": torch.tensor([[1, 0]]),
        "boxes": torch.tensor([[20.0, 10.0, 50.0, 44.0]]),
        "mask_input": mask,
    }
    by = torch.tensor([8.0, 16.0])
    moved = given | {
        "points": given["points"] + by,
        "boxes": given["boxes"] + by.repeat(2),
        "mask_input": mask.roll((2, 1), dims=(2, 3)),
    }
    before, after = (said(settled(network), image, **only(prompt, *kinds)) for prompt in (given, moved))
    right, down = 8 // stride, 16 // stride
    torch.testing.assert_close(after[:, :, down:, right:], before[:, :, :-down, :-right], rtol=1e-3, atol=1e-4)
    assert (after - before).abs().max() > 0.05


def test_likeness_is_that_of_the_clicked_place():
    """Two kinds of ground: what a click says at a position depends on whether that is of the clicked kind."""
    torch.manual_seed(0)
    here, there = torch.randn(2, KEYS, 1, 1)
    kind = torch.arange(8).expand(8, 8) < 4  # the left half is of the clicked kind
    other = kind.clone()
    other[6, 1] = False  # one position of it is not
    click = {"points": torch.tensor([[[12.0, 12.0]]]), "point_labels": torch.tensor([[1]])}
    one, two = (
        said(settled(), plain("full", 8, 8, keys=torch.where(k, here, there)[None]), **click) for k in (kind, other)
    )
    changed = (one - two).abs().amax((0, 1)) > 1e-4
    assert changed.nonzero().tolist() == [[6, 1]]


@pytest.mark.parametrize("size", [(64, 64), (65, 90)])
def test_an_earlier_mask_lies_where_it_was_at_any_resolution(size):
    """The same mask, once at the resolution of the image and once as `full_size=False` gives it (stride 4)."""
    height, width = (-(-length // 8) * 2 for length in size)
    coarse = torch.full((1, 1, height, width), -9.0)
    coarse[..., height // 2 :, width // 2 :] = 9.0
    full = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., : size[0], : size[1]]
    image = replace(plain("full", height // 2, width // 2), size=size)
    one, two = (said(settled(), image, mask_input=mask) for mask in (coarse, full))
    torch.testing.assert_close(one, two, rtol=0, atol=0.05 * float(one.amax() - one.amin()))


@each_kind
def test_of_two_things_alike_one_vector_for_the_prompt_cannot_mark_one(network, kinds, monkeypatch):
    """A decoder of convolutions takes it as a shift of all channels: why prompts are maps.

    Exact for an embedding that does not give away positions, away from its edges, whose padding does. (In small images
    the edges are everywhere: there such a network can learn to match positions after all.)
    """
    torch.manual_seed(0)
    ground, thing = torch.randn(2, DECODER, 1, 1)
    scene = ground.repeat(1, 24, 48)
    for columns in (slice(10, 13), slice(34, 37)):
        scene[:, 10:13, columns] = thing
    if network == "base":
        image = plain(network, features=scene[None, :CHANNELS])
    else:
        image = plain(network, decoder_part=scene[None], keys=scene[None, :KEYS])
    stride = STRIDES[network]
    middle = 11.5 * stride - 0.5
    on_the_left = {
        "points": torch.tensor([[[middle, middle]]]),
        "point_labels": torch.ones(1, 1, dtype=torch.long),
        "boxes": torch.tensor([[10.0, 10.0, 13.0, 13.0]]) * stride - torch.tensor([0.0, 0.0, 1.0, 1.0]),
        "mask_input": torch.full((1, 1, 48, 96), -8.0),
    }
    on_the_left["mask_input"][..., 20:26, 20:26] = 8.0
    model = settled(network)
    maps = model.prompt_map
    for alike in (False, True):
        if alike:
            monkeypatch.setattr(model, "prompt_map", lambda *given: maps(*given).mean((2, 3), keepdim=True))
        with torch.inference_mode():
            logits, _ = model.decode(image, **only(on_the_left, *kinds))
        rows = logits[:, :, 10 * stride : 13 * stride]
        left, right, between = (rows[..., start * stride : (start + 3) * stride] for start in (10, 34, 22))
        assert bool((left - right).abs().max() < 1e-4) == alike
        assert (left - between).abs().max() > 0.01  # either is told from the ground between them


def two_discs(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B, 3, 64, 64) of two discs alike and apart; centres (B, 2, 2) as (x, y), masks bool (B, 2, 64, 64)."""
    centres = torch.randint(8, 56, (20 * count, 2, 2), generator=rng)
    centres = centres[centres.diff(dim=1).square().sum((1, 2)) > 20**2][:count]
    x, y = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="xy")
    masks = (x - centres[..., 0, None, None]) ** 2 + (y - centres[..., 1, None, None]) ** 2 <= 8**2
    return torch.where(masks.any(1), 200, 60).to(torch.uint8)[:, None].repeat(1, 3, 1, 1), centres.float(), masks


@networks
def test_a_click_on_each_of_two_discs_gives_that_disc(network):
    """Sixty steps of the decoder on a random encoder; then, in new images, the clicked disc has the higher IoU.

    With five other seeds it was so for 98 % of the clicks or more.
    """
    rng = torch.Generator().manual_seed(0)
    model = settle(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)

    def click_on_each(count: int) -> tuple[Tensor, Tensor]:
        images, centres, masks = two_discs(count, rng)
        with torch.no_grad():
            embedding = model.encode(images).repeat(2)
        ones = torch.ones(2 * count, 1, dtype=torch.long)
        logits, _ = model.decode(embedding, centres.flatten(0, 1)[:, None], ones)
        return logits[:, :1], masks

    for step in range(60):
        optimizer.param_groups[0]["lr"] = 5e-3 * min(1, (step + 1) / 10)
        logits, masks = click_on_each(4)
        target, p = masks.flatten(0, 1)[:, None].float(), logits.sigmoid()
        dice = 2 * (p * target).sum((2, 3)) / (p + target).sum((2, 3))
        loss = F.binary_cross_entropy_with_logits(logits, target) + 1 - dice.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        logits, masks = click_on_each(40)
    answer, masks = (logits > 0).view(40, 2, 1, 64, 64), masks[:, None]
    iou = (answer & masks).sum((-1, -2)) / (answer | masks).sum((-1, -2))  # (image, click, disc)
    own, other = iou.diagonal(dim1=1, dim2=2), iou.flip(2).diagonal(dim1=1, dim2=2)
    assert (own > other).float().mean() > 0.9
    assert own.mean() > 0.6


# --- gradients and precision ---
@heads
@networks
def test_gradients_reach_every_parameter(num_classes, network):
    torch.manual_seed(0)
    model = new(network, num_classes)
    logits, iou = model(photos(2), **taken(model, prompts(2)))
    (logits.square().mean() + iou.square().mean()).backward()
    assert not {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}


@heads
@networks
def test_the_iou_s_error_does_not_touch_the_masks(num_classes, network):
    """Else the masks would be made such that their IoU is easy to guess."""
    model = new(network, num_classes)
    logits, iou = model(photos(2), **taken(model, prompts(2)))
    iou.sum().backward(retain_graph=True)
    for part in ("mask_head", "to_fine", "fine_proj") if network == "full" else ("mask_head",):
        assert all(p.grad is None for p in getattr(model, part).parameters())
    assert model.decoder[2][0].weight.grad.abs().sum() > 0
    model.zero_grad(set_to_none=True)
    logits.sum().backward()
    assert all(p.grad is None for p in model.iou_head.parameters())


def missing_prompts() -> dict[str, Tensor]:
    given = prompts(3)
    given["points"][0], given["point_labels"][0] = NOWHERE, -1
    given["boxes"][1] = given["mask_input"][2] = NOWHERE
    return given


def degenerate_prompts() -> dict[str, Tensor]:
    """A box of one pixel, one that covers all, points on a position's own centre, in a corner and outside the image."""
    points = [[[3.5, 3.5], [0.0, 0.0]], [[63.0, 63.0], [-40.0, 200.0]]]
    boxes = [[5.0, 6.0, 5.0, 6.0], [0.0, 0.0, 63.0, 63.0]]
    labels = torch.tensor([[1, 0], [1, 0]])
    return {"points": torch.tensor(points), "point_labels": labels, "boxes": torch.tensor(boxes)}


@networks
@pytest.mark.parametrize(
    ("batch", "given"),
    [
        (3, missing_prompts),
        (2, degenerate_prompts),
        *((1, lambda kinds=kinds: only(prompts(1), *kinds)) for kinds in ((), *KINDS)),  # one image is enough
    ],
)
def test_answers_and_gradients_are_finite(network, batch, given):
    model = new(network)
    logits, iou = model(photos(batch), **taken(model, given()))
    assert logits.isfinite().all()
    assert iou.isfinite().all()
    (logits.square().mean() + iou.mean()).backward()
    broken = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    assert broken == []


@networks
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_and_its_answer_as_the_next_prompt(dtype, network):
    torch.manual_seed(0)
    model, images, given = settled(network), photos(2), only(prompts(2), "points", "point_labels", "boxes")
    exact, exact_iou = answers(model, images, **given)
    with torch.autocast("cpu", dtype=dtype), torch.inference_mode():
        logits, iou = model(images, **given)
        refined, _ = model(images, **taken(model, {**given, "mask_input": logits[:, :1]}))
    assert (logits.float() - exact).abs().mean() < 0.1 * exact.std()
    assert (iou.float() - exact_iou).abs().max() < 0.02
    assert refined.isfinite().all()


# --- mistakes --------------------------------------------------------------------------------------------------------


ONE, TWO = torch.ones(2, 1, dtype=torch.long), torch.ones(2, 2, dtype=torch.long)


WRONG = [
    ({"images": torch.zeros(3, 64, 64)}, r"images must have shape \(B, 3, H, W\), got \(3, 64, 64\)"),
    ({"images": torch.zeros(2, 1, 64, 64)}, r"images must have shape \(B, 3, H, W\), got \(2, 1, 64, 64\)"),
    ({"points": torch.zeros(2, 1, 2)}, "points and point_labels belong together"),
    ({"point_labels": ONE}, "points and point_labels belong together"),
    ({"points": torch.zeros(1, 2), "point_labels": ONE}, r"points must have shape \(2, N, 2\)"),
    ({"points": torch.zeros(1, 1, 2), "point_labels": ONE[:1]}, r"points must have shape \(2, N, 2\)"),
    ({"points": torch.zeros(2, 1, 2), "point_labels": TWO}, r"point_labels must have shape \(2, 1\), got \(2, 2\)"),
    ({"boxes": torch.zeros(4)}, r"boxes must have shape \(2, 4\).* got \(4,\)"),
    ({"boxes": torch.zeros(2, 1, 4)}, r"boxes must have shape \(2, 4\)"),
    ({"points": torch.zeros(2, 1, 2), "point_labels": ONE.float()}, "point_labels must be integers: 1 foreground"),
    ({"mask_input": torch.ones(2, 1, 8, 8).bool()}, r"must be logits, float, got torch.bool; .* 16\.0 \* mask - 8"),
    ({"mask_input": torch.zeros(2, 16, 16)}, r"mask_input must have shape \(2, 1, h, w\), got \(2, 16, 16\)"),
    ({"mask_input": torch.zeros(2, 3, 16, 16)}, r"mask_input must have shape \(2, 1, h, w\)"),
]


@pytest.mark.parametrize(
    ("network", "wrong", "message"),
    [(network, *case) for network in STRIDES for case in WRONG if network == "full" or "mask_input" not in case[0]],
)
def test_wrong_shapes_are_named(network, wrong, message):
    with pytest.raises(ValueError, match=message):
        answers(settled(network), **({"images": photos(2)} | wrong))
