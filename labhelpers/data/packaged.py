"""Photographs that are here without a download: those that installed packages bring along, free to use and to show."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from labhelpers.data.reading import read_image


class Photograph(NamedTuple):
    """Where a photograph lies, and what its package says about it."""

    package: str  # as it is installed
    module: str  # as it is imported
    file: str  # in the module's folder
    terms: str  # what is seen, who took it, on which terms


# The terms as they stand in the docstrings of skimage.data, and for matplotlib's in its pull request 1599. The
# photographs of scikit-learn are missing here because they ask for a credit (CC BY 2.0), and its README contradicts
# itself about whose they are.
PHOTOGRAPHS = {
    "astronaut": Photograph(
        "scikit-image", "skimage", "data/astronaut.png", "Eileen Collins, by NASA, in the public domain"
    ),
    "coffee": Photograph("scikit-image", "skimage", "data/coffee.png", "a cup of coffee, by Rachel Michetti, CC0"),
    "cat": Photograph("scikit-image", "skimage", "data/chelsea.png", "Chelsea the cat, by Stefan van der Walt, CC0"),
    "rocket": Photograph("scikit-image", "skimage", "data/rocket.jpg", "a Falcon 9, by SpaceX, in the public domain"),
    "admiral": Photograph(
        "matplotlib",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "Grace Hopper, by the US Navy, in the public domain",
    ),
}
"""What `photographs` looks for, by name."""


def photographs() -> dict[str, np.ndarray]:
    """The photographs of `PHOTOGRAPHS` that are here, by name: uint8 (H, W, 3), at most 640 pixels wide.

    A sentence names those that are not, and the packages to install. Nothing is downloaded.

    Raises:
        ValueError: a file is damaged, see `read_image`.
    """
    found, missing = {}, {}
    for name, photograph in PHOTOGRAPHS.items():
        spec = find_spec(photograph.module)  # finds the folder without importing what is in it
        path = Path(spec.origin).parent / photograph.file if spec and spec.origin else None
        if path and path.is_file():
            found[name] = read_image(path)
        else:
            missing[name] = photograph.package
    if missing:
        packages = " ".join(dict.fromkeys(missing.values()))
        print(f"Photographs that are not here: {', '.join(missing)}. They come with: pip install {packages}")
    return found
