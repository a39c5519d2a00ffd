"""The networks of the course as boxes and arrows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from labhelpers.plots.style import FAINT, INK, SERIES_COLOURS, WIDTH, legend_below, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ARROW = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 1, "mutation_scale": 11}


@dataclass(frozen=True)
class Block:
    """A box: its text, the middle of it, its size and what kind of thing it is; all in one unit, y grows upwards."""

    text: str
    x: float
    y: float
    width: float = 2.0
    height: float = 0.8
    kind: str = "layers"

    @property
    def sides(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """From where to where it reaches in x, and in y."""
        return (
            (self.x - self.width / 2, self.x + self.width / 2),
            (self.y - self.height / 2, self.y + self.height / 2),
        )


Arrows = Sequence[tuple[str, str] | tuple[str, str, str]]


def architecture(name: str) -> "Figure":
    """The schematic of a network.

    Args:
        name: one of `SCHEMATICS`.

    Raises:
        ValueError: an unknown name.
    """
    if name not in SCHEMATICS:
        raise ValueError(f"there is no schematic of {name!r}; there are: {', '.join(SCHEMATICS)}")
    return schematic(*SCHEMATICS[name]())


@styled
def schematic(blocks: Mapping[str, Block], arrows: Arrows, alt: str) -> "Figure":
    """Boxes, coloured by their kind, and arrows between them.

    Args:
        blocks: by the names that the arrows use.
        arrows: from which box to which, and what to write at it. Boxes that face each other are joined by a straight
            line, others by one that bends once, beside the other boxes if that can be.
        alt: what the picture shows, for readers who cannot see it.

    Raises:
        ValueError: an arrow from or to a box that is not there.
    """
    from matplotlib.patches import FancyBboxPatch, Patch

    for start, end, *_ in arrows:
        for name in (start, end):
            if name not in blocks:
                raise ValueError(f"an arrow names {name!r}, which is no block; there are: {', '.join(blocks)}")
    x, y = ([side for block in blocks.values() for side in block.sides[axis]] for axis in (0, 1))
    left, right, low, high = min(x) - 0.3, max(x) + 0.3, min(y) - 0.3, max(y) + 0.3
    kinds = list(dict.fromkeys(block.kind for block in blocks.values()))
    below = 0.35 if len(kinds) > 1 else 0.0
    figure = new_figure(WIDTH * (high - low) / (right - left) + below, below=below)
    ax = figure.add_subplot()
    ax.set(xlim=(left, right), ylim=(low, high))
    ax.set_aspect("equal")
    ax.set_axis_off()
    colours = {kind: SERIES_COLOURS[i % len(SERIES_COLOURS)] for i, kind in enumerate(kinds)}
    for block in blocks.values():
        (x0, _), (y0, _) = block.sides
        box = FancyBboxPatch(
            (x0, y0), block.width, block.height, boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=(colours[block.kind], 0.18), edgecolor=colours[block.kind], linewidth=1.4,
        )  # fmt: skip
        ax.add_patch(box)
        ax.text(block.x, block.y, block.text, ha="center", va="center", fontsize=9)
    for start, end, *label in arrows:
        *before, tail, head = path(blocks, start, end)
        for corner in before:  # a bent arrow: its first leg has no head
            ax.plot(*zip(corner, tail, strict=True), color=INK, linewidth=1.2, marker="", solid_capstyle="round")
        ax.annotate("", xy=head, xytext=tail, arrowprops=ARROW)
        if label:
            (x0, y0), (x1, y1) = tail, head
            upright = x0 == x1
            ax.text(
                (x0 + x1) / 2 + 0.1 * upright, (y0 + y1) / 2 + 0.08 * (not upright), label[0],
                ha="left" if upright else "center", va="center" if upright else "bottom", fontsize=8.5, color=FAINT,
            )  # fmt: skip
    if len(kinds) > 1:
        handles = [Patch(facecolor=(colours[k], 0.18), edgecolor=colours[k], label=k) for k in kinds]
        legend_below(figure, handles, columns=len(kinds))
    figure.set_label(alt)
    return figure


Corners = list[tuple[float, float]]


def path(blocks: Mapping[str, Block], start: str, end: str) -> Corners:
    """The corners of the arrow from one box to another: two, or three if it bends."""
    ((ax, ay), (bx, by)), a, b = (blocks[start].sides, blocks[end].sides), blocks[start], blocks[end]
    low, high = max(ay[0], by[0]), min(ay[1], by[1])
    if low < high:  # they face each other: across the middle of what they share
        tail, head = (ax[1], bx[0]) if bx[0] >= ax[1] else (ax[0], bx[1])
        return [(tail, (low + high) / 2), (head, (low + high) / 2)]
    low, high = max(ax[0], bx[0]), min(ax[1], bx[1])
    if low < high:
        tail, head = (ay[1], by[0]) if by[0] >= ay[1] else (ay[0], by[1])
        return [((low + high) / 2, tail), ((low + high) / 2, head)]
    right, up = b.x > a.x, b.y > a.y
    sideways = [(ax[right], a.y), (b.x, a.y), (b.x, by[not up])]
    upright = [(a.x, ay[up]), (a.x, b.y), (bx[not right], b.y)]
    return upright if crossed(sideways, blocks) and not crossed(upright, blocks) else sideways


def crossed(corners: Corners, blocks: Mapping[str, Block]) -> list[str]:
    """The boxes through which a line of upright and level legs passes; where it only touches one, it does not."""
    found = []
    for name, block in blocks.items():
        (x0, x1), (y0, y1) = block.sides
        for (ax, ay), (bx, by) in pairwise(corners):
            if min(ax, bx) < x1 and max(ax, bx) > x0 and min(ay, by) < y1 and max(ay, by) > y0:
                found.append(name)
    return found


# --- the networks ---

Drawing = tuple[dict[str, Block], Arrows, str]
IO, ENCODER, NEW, JOIN = "in and out", "encoder", "what this network adds", "joined"


def _encoder() -> tuple[dict[str, Block], list[tuple[str, str]]]:
    """The image and an encoder's stages in a row, each half as large as the one before."""
    blocks = {"image": Block("image", 0, 0, 1.4, kind=IO)}
    for i in range(1, 5):
        blocks[f"layer{i}"] = Block(f"layer{i}\nstride {2 << i}", 2.4 * i - 0.2, 0, 1.8, kind=ENCODER)
    names = list(blocks)
    return blocks, list(zip(names, names[1:], strict=False))


def _fcn8s() -> Drawing:
    blocks, chain = _encoder()
    for i, name in ((2, "score_pool3"), (3, "score_pool4"), (4, "score_fr")):
        blocks[name] = Block(f"{name}\n1×1", blocks[f"layer{i}"].x, -1.5, 1.8, kind="scores: K channels")
    for name, at in (("sum8", "layer2"), ("sum16", "layer3")):
        blocks[name] = Block("+", blocks[at].x, -3.0, 0.6, 0.6, JOIN)
    blocks["upscore2"] = Block("upscore2: × 2", blocks["layer4"].x, -3.0, 1.8, 0.6, "enlarged")
    blocks["logits"] = Block("logits", 0, -3.0, 1.4, kind=IO)
    arrows = [
        *chain, ("layer2", "score_pool3"), ("layer3", "score_pool4"), ("layer4", "score_fr"), ("score_fr", "upscore2"),
        ("score_pool4", "sum16"), ("score_pool3", "sum8"), ("upscore2", "sum16"),
        ("sum16", "sum8", "upscore_pool4: × 2"), ("sum8", "logits", "upscore8: × 8"),
    ]  # fmt: skip
    alt = "FCN-8s: scores of strides 32, 16 and 8, each enlarged and added to the next finer ones"
    return blocks, arrows, alt


def _deeplabv3plus() -> Drawing:
    blocks = {
        "image": Block("image", 0, 0, 1.4, kind=IO),
        "low": Block("layer1\nstride 4", 2.4, 0, 1.8, kind=ENCODER),
        "last": Block("layer2 to layer4\nstride 16", 5.2, 0, 2.2, kind=ENCODER),
        "aspp": Block("ASPP", 8.2, 0, 1.8, kind="head"),
        "up": Block("enlarge × 4", 8.2, -1.7, 1.8, kind="head"),
        "project": Block("project\n1×1 to 48", 2.4, -1.7, 1.8, kind="head"),
        "join": Block("concatenate", 5.2, -1.7, 1.8, kind=JOIN),
        "refine": Block("refine: 3×3, 3×3\nclassifier: 1×1", 5.2, -3.2, 2.6, kind="head"),
        "logits": Block("logits\nenlarged × 4", 0.3, -3.2, 2.0, kind=IO),
    }
    arrows = [
        ("image", "low"), ("low", "last"), ("last", "aspp"), ("aspp", "up"), ("up", "join"), ("low", "project"),
        ("project", "join"), ("join", "refine"), ("refine", "logits"),
    ]  # fmt: skip
    return blocks, arrows, "DeepLabV3+: ASPP's result, enlarged, meets projected features of stride 4 before the scores"


def _unet() -> Drawing:
    blocks = {"image": Block("image", -2.3, 0, 1.3, kind=IO), "logits": Block("1×1\nlogits", 14.8, 0, 1.3, kind=IO)}
    arrows: list = [("image", "down0"), ("up0", "logits")]
    for level, channels in enumerate((64, 128, 256, 512, 1024)):
        text, y = f"double conv\n{channels} × {512 >> level}²", -1.4 * level
        if level == 4:
            blocks["down4"] = Block(text, 6.25, y, 4.2, kind="bottom")  # reaches below both neighbours
            arrows.append(("down4", "up3", "up-conv"))
        else:
            blocks[f"down{level}"] = Block(text, 1.25 * level, y, kind="contracting path")
            blocks[f"up{level}"] = Block(text, 12.5 - 1.25 * level, y, kind="expanding path")
            arrows.append((f"down{level}", f"up{level}", f"skip: {channels} + {channels}{' channels' * (level == 0)}"))
        if level:
            arrows.append((f"down{level - 1}", f"down{level}", "pool"))
        if 0 < level < 4:
            arrows.append((f"up{level}", f"up{level - 1}", "up-conv"))
    return blocks, arrows, "U-Net: four levels down, four up, and at each a skip that is concatenated"


def _mini_sam() -> Drawing:
    once, click = "once for each image", "at every click"
    blocks = {
        "image": Block("image", 0, 0, 1.6, kind=IO),
        "encoder": Block("image_encoder\nstrides 4 to 32", 3.0, 0, 2.9, kind=once),
        "proj": Block("img_proj: enlarged\nto stride 4, 1×1", 6.6, 0, 3.0, kind=once),
        "prompt": Block("points,\nbox", 0, -1.5, 1.6, kind=IO),
        "maps": Block("maps: offsets from\nthe points, the box", 3.0, -1.5, 2.9, kind=click),
        "embed": Block("point_…_embed\nbox_embed, mix", 6.6, -1.5, 3.0, kind=click),
        "add": Block("+", 9.2, -0.75, 0.6, 0.6, JOIN),
        "decoder": Block("decoder: 3×3\nat rates 1, 2, 4", 11.4, -0.75, 2.4, kind=click),
        "mask_head": Block("mask_head\n1×1", 14.6, 0, 2.4, kind=click),
        "iou_head": Block("iou_head", 14.6, -1.5, 2.4, kind=click),
        "masks": Block("3 masks", 17.4, 0, 1.8, kind=IO),
        "ious": Block("3 predicted\nIoUs", 17.4, -1.5, 1.8, kind=IO),
    }
    arrows = [
        ("image", "encoder"), ("encoder", "proj"), ("proj", "add"), ("prompt", "maps"), ("maps", "embed"),
        ("embed", "add"), ("add", "decoder"), ("decoder", "mask_head"), ("decoder", "iou_head"),
        ("mask_head", "masks"), ("mask_head", "iou_head"), ("iou_head", "ious"),
    ]  # fmt: skip
    alt = "Mini-SAM: features of the image plus maps of the prompt; a decoder draws 3 masks and predicts their IoUs"
    return blocks, arrows, alt


def _pspnet() -> Drawing:
    blocks = {
        "image": Block("image", 0, 0, 1.4, kind=IO),
        "encoder": Block("encoder\nstride 8", 2.4, 0, 1.8, 4.6, ENCODER),
        "join": Block("concatenate", 9.2, 0, 1.8, 4.6, JOIN),
        "logits": Block("3×3 conv:\nlogits", 11.6, 0, 1.4, kind=IO),
    }
    arrows: list = [("image", "encoder"), ("encoder", "join", "the features themselves"), ("join", "logits")]
    for cells, y in ((1, 1.9), (2, 0.95), (3, -0.95), (6, -1.9)):
        name = f"grid{cells}"
        blocks[name] = Block(f"means, {cells} × {cells} grid", 5.8, y, 2.8, 0.7, NEW)
        arrows += [("encoder", name), (name, "join")]
    return blocks, arrows, "PSPNet: the features, and their means over four grids, concatenated"


def _segformer() -> Drawing:
    blocks, chain = _encoder()
    for i in range(1, 5):
        x = blocks[f"layer{i}"].x
        blocks[f"layer{i}"] = Block(f"attention {i}\nstride {2 << i}", x, 0, 1.8, kind=NEW)
        blocks[f"mlp{i}"] = Block("1×1, enlarged\nto stride 4", x, -1.5, kind="decoder")
    blocks["join"] = Block("concatenate, 1×1", 5.8, -3.0, 9.0, kind=JOIN)
    blocks["logits"] = Block("logits", 0, -3.0, 1.4, kind=IO)
    arrows: list = [*chain, ("join", "logits")]
    arrows += [(f"layer{i}", f"mlp{i}") for i in range(1, 5)] + [(f"mlp{i}", "join") for i in range(1, 5)]
    return blocks, arrows, "SegFormer: four stages of attention, each brought to stride 4 by a 1x1 layer, concatenated"


def _unetplusplus() -> Drawing:
    blocks, arrows = {}, []
    for level in range(4):
        for node in range(4 - level):
            name = f"{level}{node}"
            text = f"stride {2 << level}" if node == 0 else f"node {level},{node}"
            blocks[name] = Block(text, 2.6 * node + 1.3 * level, -1.3 * level, 1.6, 0.7, ENCODER if not node else NEW)
            if node:
                arrows += [(f"{level}{node - 1}", name), (f"{level + 1}{node - 1}", name)]
            elif level:
                arrows.append((f"{level - 1}0", name))
    blocks["logits"] = Block("logits", 10.4, 0, 1.4, 0.7, IO)
    return blocks, [*arrows, ("03", "logits")], "U-Net++: a triangle of decoder nodes between encoder and output"


def _hrnet() -> Drawing:
    blocks = {"image": Block("image", 0, 0, 1.4, kind=IO)}
    arrows: list = [("image", "00")]
    for column in range(4):
        for branch in range(column + 1):
            name = f"{column}{branch}"
            kind = "stride 4, kept" if branch == 0 else "coarser branches"
            blocks[name] = Block(f"stride {4 << branch}", 2.3 + 2.5 * column, -1.2 * branch, 1.6, 0.7, kind)
            if column and branch < column:
                arrows.append((f"{column - 1}{branch}", name))
            if branch and branch == column:
                arrows.append((f"{column - 1}{branch - 1}", name))
    blocks["join"] = Block("all enlarged,\nconcatenated", 12.4, -1.8, 2.0, 4.3, JOIN)
    blocks["logits"] = Block("logits", 14.9, -1.8, 1.4, kind=IO)
    arrows += [*((f"3{branch}", "join") for branch in range(4)), ("join", "logits")]
    return blocks, arrows, "HRNet: a branch of stride 4 from beginning to end, coarser ones beside it"


SCHEMATICS = {
    "fcn8s": _fcn8s,
    "deeplabv3plus": _deeplabv3plus,
    "unet": _unet,
    "mini_sam": _mini_sam,
    "pspnet": _pspnet,
    "segformer": _segformer,
    "unetplusplus": _unetplusplus,
    "hrnet": _hrnet,
}
