"""Synthetic scenes in the exact layout of PASCAL VOC: what every lab runs on when VOC is not at hand.

Pictures before JPEG encoding and label maps are the same bytes on every platform: the dice are NumPy's PCG64 seeded by
(seed, split, index), of which only integers and uniform floats are drawn, and the drawing uses correctly rounded
operations alone (see shapes.py). JPEG files may differ by a few grey levels between versions of the encoder.
"""

from pathlib import Path

from labhelpers.data.scenes.composition import SPLITS, Scene, draw_scene
from labhelpers.data.scenes.files import claim, jpeg, png, write
from labhelpers.data.voc import VOC_CLASSES

SCENE_CLASSES = VOC_CLASSES

CONTEXT_PAIRS = (
    ("bus", "train", "surroundings: the same drawing, on a road or on rails"),
    ("chair", "sofa", "extent: the same cloth, arms and feet, one seat wide or three"),
)
"""Classes that look alike from near by, so that only wide context tells them apart: (class, class, what differs)."""

GENERATOR = 1  # raise it when a change in this folder alters any picture
FOLDERS = {"JPEGImages": ".jpg", "SegmentationClass": ".png", "SegmentationObject": ".png"}


def make_scenes(root: str | Path, n: int | tuple[int, int], seed: int = 0, size: int = 256) -> Path:
    """Write synthetic scenes in VOC layout and return `root`, ready for `VOCSegmentation(root, "train")`.

    Scene i of a split is the same picture whatever `n` is, and every 20 training scenes in a row show all 20
    categories. A finished folder is used as it is, one that was interrupted or holds fewer scenes is completed; the
    split lists always name exactly the scenes asked for.

    Args:
        root: a new folder, or one that this function wrote with the same seed and size.
        n: number of scenes, (train, val); a single number is split 4 to 1.
        seed: another seed gives other scenes.
        size: height and width in pixels, at least 64.

    Raises:
        ValueError: `n` or `size` is too small, or `root` holds something else or scenes with other settings.
    """
    root = Path(root)
    counts = (n - n // 5, n // 5) if isinstance(n, int) else tuple(n)
    if len(counts) != 2 or min(counts) < 1:
        raise ValueError(f"n={n!r}: make_scenes needs (train, val), each at least 1, or one number of at least 5.")
    if size < 64:
        raise ValueError(f"size={size}: scenes need at least 64 pixels, smaller ones lose their objects.")
    claim(root, {"generator": GENERATOR, "seed": seed, "size": size}, "scenes.json")
    for folder in (*FOLDERS, "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)

    names: dict[str, list[str]] = {}
    for split, count in zip(SPLITS, counts, strict=True):
        names[split] = [f"{split}_{index:05d}" for index in range(count)]
        for index, name in enumerate(names[split]):
            if any(not (root / folder / (name + suffix)).is_file() for folder, suffix in FOLDERS.items()):
                _write_scene(root, name, draw_scene(seed, split, index, size))
    for split, members in {**names, "trainval": names["train"] + names["val"]}.items():
        write(root / "ImageSets" / "Segmentation" / f"{split}.txt", ("\n".join(members) + "\n").encode())
    return root


def _write_scene(root: Path, name: str, scene: Scene) -> None:
    write(root / "JPEGImages" / f"{name}.jpg", jpeg(scene.image))
    write(root / "SegmentationClass" / f"{name}.png", png(scene.classes))
    write(root / "SegmentationObject" / f"{name}.png", png(scene.objects))
