"""One synthetic scene: a place, objects in it from far to near, and the exact masks that come with them."""

from dataclasses import dataclass

import numpy as np

from labhelpers.data.scenes.drawing import Part, finish, grain, grow, paint, shadow
from labhelpers.data.scenes.figures import FIGURES, Kit, bird
from labhelpers.data.scenes.settings import SETTINGS, Backdrop, Setting
from labhelpers.data.voc import VOC_CLASSES

SPLITS = ("train", "val")

SMALLEST, LARGEST = 0.09, 0.9  # sizes of objects, as a fraction of the picture's height: a range of 1 to 10
# Size of a figure in the foreground, in the same unit.
SIZES = {
    "aeroplane": 0.81, "bicycle": 0.74, "bird": 0.47, "boat": 0.98, "bottle": 0.67, "bus": 1.06, "car": 0.89,
    "cat": 0.58, "chair": 1.16, "cow": 0.82, "diningtable": 0.96, "dog": 0.60, "horse": 0.86, "motorbike": 0.76,
    "person": 0.94, "pottedplant": 0.74, "sheep": 0.69, "sofa": 1.16, "train": 1.06, "tvmonitor": 0.69,
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One picture: `image` uint8 (S, S, 3), `classes` and `objects` uint8 (S, S), 0 background, 255 void rim."""

    image: np.ndarray
    classes: np.ndarray
    objects: np.ndarray


@dataclass(frozen=True)
class _Placed:
    label: int
    feet: float  # y of its lowest point, in pixels: what is lower stands nearer
    size: float
    grounded: bool
    parts: list[Part]
    box: tuple[float, float, float, float]


def draw_scene(seed: int, split: str, index: int, size: int = 256) -> Scene:
    """Draw scene `index` of `split` ("train" or "val"), whatever the number of scenes in the set.

    Each block of 20 scenes in a row has every category as its main object once.
    """
    code = SPLITS.index(split)
    rng = np.random.Generator(np.random.PCG64((seed, code, index)))
    order = np.random.Generator(np.random.PCG64((seed, code, index // 20, 20))).permutation(20)
    main = VOC_CLASSES[1 + int(order[index % 20])]
    homes = [name for name, s in SETTINGS.items() if main in dict(s.ground) or main in dict(s.sky)]
    setting = SETTINGS[homes[int(rng.integers(len(homes)))]]
    low, high = setting.horizon
    horizon = low + (high - low) * rng.random()
    placed = _arrange(rng, setting, main, horizon, size)

    backdrop = Backdrop(rng, size, horizon)
    setting.draw(backdrop)
    return _compose(rng, backdrop.picture, placed)


def _arrange(rng: np.random.Generator, setting: Setting, main: str, horizon: float, size: int) -> list[_Placed]:
    """Choose and place the objects: the main one first and whole, others where neither hides too much of the other."""
    placed = [_place(rng, setting, main, horizon, size, depth=(0.4, 1.0), inside=0.5)]
    for _ in range(int(rng.integers(0, 6))):
        sky = setting.sky and rng.random() < 0.15
        choices = [name for name, weight in (setting.sky if sky else setting.ground) for _ in range(weight)]
        name = choices[int(rng.integers(len(choices)))]
        for _attempt in range(10):
            candidate = _place(rng, setting, name, horizon, size, depth=(0.0, 1.0), inside=0.15)
            if all(_overlap(candidate.box, other.box) < 0.5 for other in placed):
                placed.append(candidate)
                break
    return sorted(placed, key=lambda one: (one.grounded, one.feet))


def _place(
    rng: np.random.Generator,
    setting: Setting,
    name: str,
    horizon: float,
    size: int,
    depth: tuple[float, float],
    inside: float,
) -> _Placed:
    """Put one figure at a random place, as large as its depth says, with at least `inside` of its size left of, and
    right of, its centre within the picture."""
    flying = name in dict(setting.sky) and (name not in dict(setting.ground) or rng.random() < 0.5)
    t = depth[0] + (depth[1] - depth[0]) * rng.random()
    t = setting.farthest + (1 - setting.farthest) * t
    scale = SIZES[name] * (0.12 + 0.88 * t) * (0.9 + 0.2 * rng.random())
    scale = min(max(scale, SMALLEST), LARGEST)
    x = inside * scale + (1 - 2 * inside * scale) * rng.random()
    if flying:
        feet = max(0.65 * scale, horizon * (0.35 + 0.5 * rng.random()))
        tilt = 0.3 * (rng.random() - 0.5)
    else:
        feet, tilt = horizon + t * (setting.nearest - horizon), 0.0
    flip = rng.random() < 0.5
    kit = Kit(rng, size / 128)
    if flying and name == "bird":
        bird(kit, flying=True)
    else:
        FIGURES[name](kit)
    parts = [p.placed(x * size, feet * size, scale * size, flip, tilt, 0.65 * size / 128) for p in kit.parts]
    x0, y0, x1, y1 = zip(*(part.box() for part in parts), strict=True)
    box = (min(x0), min(y0), max(x1), max(y1))
    return _Placed(VOC_CLASSES.index(name), feet * size, scale * size, not flying, parts, box)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection of two boxes as a share of the smaller."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _compose(rng: np.random.Generator, picture: np.ndarray, placed: list[_Placed]) -> Scene:
    """Paint the objects from far to near; each covers what is behind it and draws its void rim around itself."""
    size = picture.shape[0]
    rim = max(1, size // 128)
    ids = np.zeros((size, size), dtype=np.uint8)
    for number, one in enumerate(placed, start=1):
        if one.grounded:
            x0, _, x1, _ = one.box
            x, y, r = (x0 + x1) / 2, one.feet, (x1 - x0) / 2
            points = [(x, y), (x + r * 1.08, y), (x, y + 0.045 * one.size)]
            paint(picture, Part("ellipse", points, 0.0, shadow), opacity=0.35)
        mask = np.zeros((size, size), dtype=bool)
        for part in one.parts:
            paint(picture, part, mask)
        ids[grow(mask, rim)] = 255
        ids[mask] = number
    grain(rng, picture, 9)
    return Scene(finish(picture), *_number(ids, [one.label for one in placed], size * size // 1600))


def _number(ids: np.ndarray, labels: list[int], smallest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return class and object maps; what is hidden but for less than `smallest` pixels becomes void."""
    classes, objects = np.full(256, 255, dtype=np.uint8), np.full(256, 255, dtype=np.uint8)
    classes[0] = objects[0] = 0
    visible = np.bincount(ids.ravel(), minlength=256)
    count = 0
    for number, label in enumerate(labels, start=1):
        if visible[number] >= smallest:
            count += 1
            classes[number], objects[number] = label, count
    return classes[ids], objects[ids]
