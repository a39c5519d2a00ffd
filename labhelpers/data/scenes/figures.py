"""The silhouettes of the synthetic scenes: one function for each of the 20 VOC categories.

A figure faces right and stands on y = 0 (y up); 1 is its size, the longer side of its bounding box. A function adds the
figure's parts to a `Kit`, back to front, and draws its few variations (pose, colour) from the kit's dice. (A chair is
smaller than that: it is drawn in the unit of the sofa, whose seat it shares.)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from labhelpers.data.scenes.drawing import Colour, Look, Part, Points

T = TypeVar("T")

LIMB = 0.0225  # half the width of thin parts: limbs are 4.5 % of the size
INK, GLASS, WHITE = (38, 36, 44), (150, 200, 226), (238, 236, 230)
SKIN = ((240, 196, 160), (206, 150, 108), (134, 88, 60))


class Kit:
    """Collects the parts of one figure. `unit` is a pixel at 128 px image size; `rng` decides the variations."""

    def __init__(self, rng: np.random.Generator, unit: float):
        self.rng = rng
        self.unit = unit
        self.parts: list[Part] = []
        self._light = 0.92 + 0.16 * rng.random()
        self._period = (4 + 3 * rng.random()) * unit

    def pick(self, choices: Sequence[T]) -> T:
        """Choose one of `choices`."""
        return choices[int(self.rng.integers(len(choices)))]

    def look(self, colour: Colour, second: Colour | None = None, pattern: str = "solid", coarse: float = 1.0) -> Look:
        """Return a shader whose brightness and period (4 to 7 px at 128, times `coarse`) are this object's own."""
        first, other = (tuple(min(255, int(v * self._light)) for v in c) for c in (colour, second or colour))
        return Look(first, second and other, pattern, coarse * self._period, 1.5 * self.unit)

    def poly(self, look: Look, points: Points, rounding: float = 0.0) -> None:
        self.parts.append(Part("polygon", points, rounding, look))

    def stroke(self, look: Look, points: Points, radius: float = LIMB) -> None:
        self.parts.append(Part("stroke", points, radius, look))

    def oval(self, look: Look, x: float, y: float, rx: float, ry: float) -> None:
        self.parts.append(Part("ellipse", [(x, y), (x + rx, y), (x, y + ry)], 0.0, look))

    def ring(self, look: Look, x: float, y: float, r: float, radius: float = LIMB) -> None:
        self.parts.append(Part("ring", [(x, y), (x + r, y), (x, y + r)], radius, look))

    def box(self, look: Look, x0: float, y0: float, x1: float, y1: float, rounding: float = 0.0) -> None:
        x0, y0, x1, y1 = x0 + rounding, y0 + rounding, x1 - rounding, y1 - rounding
        self.poly(look, [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], rounding)


def aeroplane(kit: Kit) -> None:
    body = kit.look((232, 236, 244))
    trim = kit.look((44, 92, 190), (236, 240, 248), "slanted")
    kit.poly(trim, [(-0.10, 0.24), (0.10, 0.24), (-0.08, 0.46), (-0.15, 0.46)])
    kit.poly(trim, [(-0.47, 0.24), (-0.30, 0.24), (-0.42, 0.48), (-0.50, 0.48)], 0.01)
    kit.poly(body, [(-0.46, 0.22), (-0.34, 0.15), (0.30, 0.14), (0.40, 0.19), (0.34, 0.24)], 0.05)
    for i in range(6):
        kit.oval(kit.look((52, 78, 120)), -0.22 + 0.09 * i, 0.215, 0.017, 0.022)
    kit.poly(kit.look(GLASS), [(0.32, 0.215), (0.41, 0.215), (0.35, 0.25)])
    kit.poly(trim, [(-0.06, 0.17), (0.14, 0.17), (-0.14, -0.02), (-0.22, -0.02)], 0.01)


def bicycle(kit: Kit) -> None:
    tyre, frame = kit.look((70, 30, 60)), kit.look((226, 40, 120))
    kit.ring(tyre, -0.27, 0.21, 0.185)
    kit.ring(tyre, 0.27, 0.21, 0.185)
    kit.stroke(frame, [(-0.27, 0.21), (-0.13, 0.50), (0.17, 0.50), (-0.03, 0.20), (-0.27, 0.21)])
    kit.stroke(frame, [(-0.03, 0.20), (-0.15, 0.56)])
    kit.stroke(frame, [(0.27, 0.21), (0.15, 0.60), (0.24, 0.64)])
    kit.stroke(kit.look(INK), [(-0.22, 0.57), (-0.09, 0.57)], 0.03)


def bird(kit: Kit, flying: bool = False) -> None:
    body = kit.look((250, 206, 40))
    wing = kit.look((250, 206, 40), (52, 60, 96), "slanted")
    if flying:
        kit.poly(wing, [(-0.16, 0.26), (0.12, 0.26), (-0.12, 0.66), (-0.24, 0.62)], 0.02)
    else:
        for x in (-0.04, 0.06):
            kit.stroke(kit.look((226, 110, 30)), [(x, 0.16), (x, 0.02), (x + 0.06, 0.02)])
    kit.poly(wing, [(-0.22, 0.24), (-0.46, 0.20), (-0.48, 0.32), (-0.22, 0.34)], 0.015)
    kit.oval(body, -0.02, 0.27, 0.27, 0.16)
    kit.oval(body, 0.24, 0.42, 0.13, 0.12)
    kit.poly(kit.look((236, 112, 24)), [(0.34, 0.46), (0.50, 0.40), (0.34, 0.38)], 0.01)
    kit.oval(kit.look(INK), 0.28, 0.45, 0.025, 0.025)
    if flying:
        kit.poly(wing, [(-0.10, 0.28), (0.14, 0.28), (0.02, 0.72), (-0.12, 0.68)], 0.02)
    else:
        kit.poly(wing, [(0.12, 0.34), (-0.14, 0.36), (-0.30, 0.22), (-0.06, 0.20)], 0.02)


def boat(kit: Kit) -> None:
    sail = kit.look(WHITE, kit.pick(((220, 56, 48), (40, 90, 200))), "level")
    kit.stroke(kit.look((110, 72, 44)), [(-0.03, 0.16), (-0.03, 0.98)])
    kit.poly(sail, [(0.01, 0.28), (0.42, 0.28), (0.01, 0.94)], 0.01)
    kit.poly(sail, [(-0.08, 0.28), (-0.36, 0.28), (-0.08, 0.82)], 0.01)
    kit.poly(kit.look((196, 60, 40)), [(-0.46, 0.22), (0.48, 0.22), (0.34, 0.02), (-0.34, 0.02)], 0.015)
    kit.stroke(kit.look(WHITE), [(-0.43, 0.17), (0.43, 0.17)], 0.02)


def bottle(kit: Kit) -> None:
    glass = kit.look((26, 138, 84))
    kit.poly(glass, [(-0.13, 0.04), (0.13, 0.04), (0.13, 0.50), (0.04, 0.68), (-0.04, 0.68), (-0.13, 0.50)], 0.04)
    kit.box(glass, -0.065, 0.62, 0.065, 0.93)
    kit.box(kit.look((250, 226, 120), (180, 60, 40), "checks"), -0.17, 0.17, 0.17, 0.44)
    kit.box(kit.look((200, 44, 40)), -0.08, 0.90, 0.08, 1.0, 0.02)
    kit.stroke(kit.look((150, 220, 180)), [(-0.10, 0.50), (-0.06, 0.62)], 0.015)


def coach(kit: Kit) -> None:
    """Bus and train: one look for both, so that only road or rails tell which it is."""
    body = kit.look((244, 178, 32))
    for x in (-0.36, -0.22, 0.22, 0.36):
        kit.oval(kit.look(INK), x, 0.065, 0.065, 0.065)
    kit.box(body, -0.5, 0.06, 0.5, 0.50, 0.05)
    kit.box(kit.look((214, 84, 30), (244, 178, 32), "upright"), -0.5, 0.13, 0.5, 0.22)
    for i in range(5):
        kit.box(kit.look((92, 140, 176)), -0.44 + 0.165 * i, 0.28, -0.31 + 0.165 * i, 0.44, 0.015)
    kit.box(kit.look((170, 214, 234)), 0.39, 0.25, 0.485, 0.45, 0.015)
    kit.oval(kit.look((255, 250, 210)), 0.475, 0.12, 0.022, 0.03)


def car(kit: Kit) -> None:
    body = kit.look(kit.pick(((216, 40, 36), (200, 30, 60))))
    kit.poly(body, [(-0.24, 0.22), (0.22, 0.22), (0.10, 0.41), (-0.16, 0.41)], 0.03)
    kit.poly(kit.look(GLASS), [(-0.20, 0.25), (-0.04, 0.25), (-0.04, 0.39), (-0.13, 0.39)])
    kit.poly(kit.look(GLASS), [(0.0, 0.25), (0.17, 0.25), (0.08, 0.39), (0.0, 0.39)])
    kit.poly(body, [(-0.45, 0.12), (0.45, 0.12), (0.46, 0.20), (0.28, 0.25), (-0.40, 0.25), (-0.46, 0.22)], 0.04)
    for x in (-0.27, 0.27):
        kit.oval(kit.look(INK), x, 0.10, 0.10, 0.10)
        kit.oval(kit.look((196, 200, 206)), x, 0.10, 0.045, 0.045)
    kit.oval(kit.look((255, 240, 150)), 0.45, 0.19, 0.03, 0.03)


def _legs(kit: Kit, look: Look, xs: tuple[float, ...], top: float, radius: float) -> None:
    stride = 0.05 * kit.rng.random()
    for i, x in enumerate(xs):
        kit.stroke(look, [(x, top), (x + (stride if i % 2 else -stride), radius)], radius)


def cat(kit: Kit) -> None:
    coat, plain = kit.look((232, 130, 44), (120, 62, 24), "upright"), kit.look((232, 130, 44))
    kit.stroke(coat, [(-0.28, 0.44), (-0.42, 0.56), (-0.40, 0.78)], 0.035)
    _legs(kit, plain, (-0.28, -0.18, 0.14, 0.24), 0.36, 0.035)
    kit.stroke(coat, [(-0.20, 0.40), (0.16, 0.42)], 0.14)
    for x in (0.20, 0.40):
        kit.poly(plain, [(x - 0.06, 0.70), (x + 0.06, 0.70), (x, 0.88)], 0.01)
    kit.oval(plain, 0.30, 0.60, 0.18, 0.15)
    for x in (0.25, 0.38):
        kit.oval(kit.look((40, 60, 40)), x, 0.63, 0.025, 0.03)
    kit.oval(kit.look((250, 224, 196)), 0.33, 0.54, 0.08, 0.055)
    kit.oval(kit.look(INK), 0.34, 0.57, 0.028, 0.02)


def dog(kit: Kit) -> None:
    coat, dark = kit.look((128, 140, 168)), kit.look((66, 72, 98))
    kit.stroke(coat, [(-0.30, 0.50), (-0.44, 0.66)], 0.03)
    _legs(kit, coat, (-0.28, -0.19, 0.08, 0.17), 0.40, 0.035)
    kit.stroke(coat, [(-0.20, 0.44), (0.12, 0.47)], 0.12)
    kit.stroke(coat, [(0.14, 0.50), (0.20, 0.64)], 0.09)
    kit.stroke(coat, [(0.22, 0.68), (0.42, 0.62)], 0.075)
    kit.oval(coat, 0.22, 0.70, 0.13, 0.12)
    kit.stroke(kit.look((226, 40, 48)), [(0.09, 0.58), (0.25, 0.53)])
    kit.poly(dark, [(0.12, 0.78), (0.20, 0.76), (0.16, 0.56), (0.09, 0.58)], 0.02)
    kit.oval(kit.look(INK), 0.485, 0.645, 0.035, 0.03)
    kit.oval(kit.look(INK), 0.28, 0.73, 0.022, 0.026)


def seat(kit: Kit, seats: int) -> None:
    """Chair and sofa: the same cloth, arms and feet; only how far the seat extends tells them apart."""
    cloth, wood, width = kit.look((150, 48, 160), (214, 140, 214), "checks"), kit.look((112, 70, 40)), 0.26
    left, right = -seats * width / 2, seats * width / 2
    for x in (left, right):
        kit.stroke(wood, [(x, 0.10), (x, LIMB)])
    for bottom, top, rounding in ((0.24, 0.56, 0.04), (0.10, 0.28, 0.03)):  # backs, then cushions
        for i in range(seats):
            kit.box(cloth, left + i * width, bottom, left + (i + 1) * width, top, rounding)
    for x in (left, right):
        kit.box(cloth, x - 0.055, 0.08, x + 0.055, 0.38, 0.05)


def cow(kit: Kit) -> None:
    coat, horn = kit.look((244, 242, 238), (36, 32, 36), "spots", coarse=1.8), kit.look((226, 206, 150))
    plain = kit.look((244, 242, 238))
    kit.stroke(plain, [(-0.36, 0.52), (-0.44, 0.40), (-0.44, 0.22)])
    _legs(kit, plain, (-0.30, -0.20, 0.12, 0.22), 0.34, 0.04)
    kit.oval(kit.look((244, 160, 166)), -0.12, 0.26, 0.08, 0.06)
    kit.box(coat, -0.38, 0.26, 0.28, 0.60, 0.12)
    kit.stroke(horn, [(0.28, 0.68), (0.25, 0.78)])
    kit.stroke(horn, [(0.38, 0.68), (0.42, 0.78)])
    kit.oval(coat, 0.33, 0.58, 0.12, 0.13)
    kit.oval(kit.look((244, 160, 166)), 0.41, 0.50, 0.09, 0.07)
    kit.oval(kit.look(INK), 0.36, 0.61, 0.02, 0.025)


def diningtable(kit: Kit) -> None:
    wood = kit.look((158, 96, 50))
    for x in (-0.42, -0.30, 0.30, 0.42):
        kit.stroke(wood, [(x, 0.44), (x, LIMB)])
    cloth = kit.look((250, 250, 246), (60, 130, 220), "checks")
    kit.poly(cloth, [(-0.46, 0.50), (-0.38, 0.60), (0.38, 0.60), (0.46, 0.50)], 0.02)
    kit.poly(cloth, [(-0.47, 0.38), (-0.30, 0.31), (-0.12, 0.38), (0.06, 0.31), (0.26, 0.38), (0.47, 0.31),
                     (0.47, 0.51), (-0.47, 0.51)], 0.01)  # fmt: skip


def horse(kit: Kit) -> None:
    coat, mane = kit.look((136, 72, 34)), kit.look((60, 30, 18))
    kit.stroke(mane, [(-0.34, 0.62), (-0.45, 0.50), (-0.46, 0.30)], 0.04)
    _legs(kit, coat, (-0.28, -0.19, 0.12, 0.21), 0.50, 0.032)
    kit.stroke(coat, [(-0.22, 0.58), (0.12, 0.57)], 0.13)
    kit.stroke(mane, [(0.12, 0.68), (0.24, 0.90)], 0.05)
    kit.stroke(coat, [(0.16, 0.60), (0.28, 0.84)], 0.075)
    kit.stroke(coat, [(0.28, 0.86), (0.42, 0.75)], 0.055)
    kit.poly(coat, [(0.24, 0.90), (0.30, 0.90), (0.27, 0.99)], 0.01)
    kit.oval(kit.look(INK), 0.31, 0.87, 0.016, 0.02)


def motorbike(kit: Kit) -> None:
    tyre, body, metal = kit.look(INK), kit.look((20, 160, 170)), kit.look((178, 184, 194))
    for x in (-0.31, 0.31):
        kit.ring(tyre, x, 0.18, 0.145, 0.035)
        kit.oval(metal, x, 0.18, 0.06, 0.06)
    kit.stroke(metal, [(0.31, 0.18), (0.19, 0.54), (0.10, 0.60)])
    kit.stroke(metal, [(-0.42, 0.12), (-0.06, 0.12)], 0.03)
    kit.poly(metal, [(-0.14, 0.14), (0.12, 0.14), (0.10, 0.30), (-0.14, 0.30)], 0.02)
    kit.poly(body, [(-0.06, 0.32), (0.16, 0.30), (0.20, 0.42), (0.06, 0.48), (-0.06, 0.40)], 0.03)
    kit.poly(body, [(-0.44, 0.36), (-0.20, 0.28), (-0.16, 0.34), (-0.40, 0.42)], 0.02)
    kit.stroke(kit.look((70, 40, 30)), [(-0.34, 0.43), (-0.10, 0.40)], 0.035)
    kit.oval(kit.look((255, 240, 170)), 0.22, 0.47, 0.05, 0.05)


def person(kit: Kit) -> None:
    skin = kit.look(kit.pick(SKIN))
    shirt = kit.look(kit.pick(((36, 70, 170), (40, 96, 200))), WHITE, kit.pick(("level", "solid")))
    trousers, hair = kit.look((54, 56, 84)), kit.look(kit.pick(((60, 36, 22), (30, 26, 28), (190, 130, 50))))
    step = 0.04 + 0.08 * kit.rng.random()
    for hip, x in ((-0.05, -step), (0.05, step)):
        kit.stroke(trousers, [(hip, 0.46), (x, 0.05)], 0.045)
        kit.stroke(kit.look(INK), [(x, 0.025), (x + 0.05, 0.025)], 0.025)
    swing, raised = 0.05 + 0.1 * kit.rng.random(), kit.rng.random() < 0.3
    hand = (0.26, 0.92) if raised else (0.12 + swing, 0.46)
    kit.stroke(skin, [(-0.10, 0.72), (-0.14 - swing, 0.58), (-0.12 - swing, 0.46)], 0.03)
    kit.stroke(skin, [(0.10, 0.72), (0.17, 0.62 if not raised else 0.76), hand], 0.03)
    kit.poly(shirt, [(-0.07, 0.46), (0.07, 0.46), (0.08, 0.72), (-0.08, 0.72)], 0.045)
    kit.oval(hair, -0.01, 0.90, 0.105, 0.10)
    kit.oval(skin, 0.015, 0.875, 0.085, 0.09)
    kit.oval(kit.look(INK), 0.05, 0.89, 0.013, 0.018)


def pottedplant(kit: Kit) -> None:
    leaf, rib = kit.look((70, 170, 50)), kit.look((44, 128, 40))
    tips = ((-0.34, 0.62), (-0.22, 0.86), (0.0, 0.98), (0.22, 0.84), (0.34, 0.60))
    for i, (x, y) in enumerate(tips):
        x += 0.06 * (kit.rng.random() - 0.5)
        side = 0.07 if abs(x) < 0.3 else 0.05
        look = leaf if i % 2 == 0 else rib
        kit.stroke(rib, [(0, 0.34), (x, y)])
        kit.poly(look, [(0.3 * x, 0.34 + 0.3 * (y - 0.34)), (0.65 * x - side, 0.34 + 0.62 * (y - 0.34) + side / 2),
                        (x, y), (0.65 * x + side, 0.34 + 0.62 * (y - 0.34) - side / 2)], 0.02)  # fmt: skip
    pot = kit.look((198, 92, 52))
    kit.poly(pot, [(-0.12, 0.01), (0.12, 0.01), (0.18, 0.30), (-0.18, 0.30)], 0.01)
    kit.box(pot, -0.22, 0.27, 0.22, 0.37, 0.02)


def sheep(kit: Kit) -> None:
    wool, dark = kit.look((250, 244, 226)), kit.look((70, 58, 62))
    _legs(kit, dark, (-0.24, -0.14, 0.10, 0.20), 0.26, LIMB * 1.2)
    curls = ((-0.30, 0.42), (-0.22, 0.56), (-0.06, 0.62), (0.10, 0.58), (0.22, 0.48), (0.16, 0.32), (-0.02, 0.28),
             (-0.20, 0.30))  # fmt: skip
    kit.oval(wool, -0.04, 0.44, 0.26, 0.18)
    for x, y in curls:
        kit.oval(wool, x, y, 0.14, 0.13)
    kit.oval(dark, 0.36, 0.52, 0.10, 0.13)
    kit.stroke(dark, [(0.30, 0.62), (0.22, 0.58)], 0.03)
    kit.oval(kit.look(WHITE), 0.39, 0.56, 0.022, 0.026)
    kit.oval(wool, 0.32, 0.66, 0.09, 0.06)


def tvmonitor(kit: Kit) -> None:
    case, leg = kit.look((60, 60, 68)), kit.look((60, 60, 68))
    for x in (-0.24, 0.24):
        kit.stroke(leg, [(x * 0.8, 0.20), (x, LIMB)])
    for x in (-0.18, 0.18):
        kit.stroke(leg, [(0, 0.80), (x, 0.97)])
    kit.box(case, -0.46, 0.14, 0.46, 0.80, 0.06)
    kit.box(kit.look((60, 220, 250), (20, 60, 150), "level"), -0.40, 0.21, 0.24, 0.74, 0.05)
    for y in (0.62, 0.46):
        kit.oval(kit.look((216, 216, 206)), 0.345, y, 0.045, 0.045)


FIGURES: dict[str, Callable[[Kit], None]] = {
    "aeroplane": aeroplane, "bicycle": bicycle, "bird": bird, "boat": boat, "bottle": bottle, "bus": coach,
    "car": car, "cat": cat, "chair": partial(seat, seats=1), "cow": cow, "diningtable": diningtable, "dog": dog,
    "horse": horse, "motorbike": motorbike, "person": person, "pottedplant": pottedplant, "sheep": sheep,
    "sofa": partial(seat, seats=3), "train": coach, "tvmonitor": tvmonitor,
}  # fmt: skip
