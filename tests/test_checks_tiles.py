"""The check of tiles accepts any starts with the properties and names the one that is missing."""

import math

import numpy as np
import pytest
from judging import assert_hint, assert_passes


def by_range(length, tile, overlap):
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def by_while(length, tile, overlap):
    starts = [0]
    while starts[-1] + tile < length:
        starts.append(min(starts[-1] + tile - overlap, length - tile))
    return starts


def spread(length, tile, overlap):
    """The same number of tiles, as evenly as whole pixels allow."""
    gaps = max(0, math.ceil((length - tile) / (tile - overlap)))
    return [i * (length - tile) // gaps for i in range(gaps + 1)] if gaps else [0]


def by_numpy(length, tile, overlap):
    starts = np.arange(0, max(length - overlap, 1), tile - overlap)
    return list(np.minimum(starts, max(length - tile, 0)))


def from_the_end(length, tile, overlap):
    """The first tile is the one that shares more."""
    starts = []
    start = length - tile
    while start > 0:
        starts.insert(0, start)
        start -= tile - overlap
    return [0, *starts]


def as_a_set(length, tile, overlap):
    step = tile - overlap
    return sorted({max(0, min(i * step, length - tile)) for i in range(length)})


@pytest.mark.parametrize("answer", [by_range, by_while, spread, by_numpy, from_the_end, as_a_set])
def test_tile_starts_accepts(answer):
    assert_passes("tile_starts", answer)


def guarded(starts):
    return lambda length, tile, overlap: [0] if length <= tile else starts(length, tile, overlap)


WRONG = [
    (
        lambda n, t, o: list(range(0, n, t - o)),
        "tile_starts(10, 4, 1) is [0, 3, 6, 9]: the last tile ends at 13, beyond",
    ),
    (
        guarded(lambda n, t, o: list(range(0, n - o, t - o))),
        "tile_starts(11, 4, 1) is [0, 3, 6, 9]",
        "ends at 13, beyond",
    ),
    (guarded(lambda n, t, o: list(range(0, n - t + 1, t - o))), "pixels 10 to 10 are in no tile"),
    (guarded(lambda n, t, o: list(range(0, n - t, t - o))), "pixels 7 to 9 are in no tile", "flush with the end"),
    (
        guarded(lambda n, t, o: [*range(0, n - t + 1, t - o), n - t]),
        "tile_starts(10, 4, 1) is [0, 3, 6, 6]: starts rise, and none occurs twice",
    ),
    (guarded(lambda n, t, o: [*range(0, n - t, t), n - t]), "The step is tile, so that", "tile - overlap = 3"),
    (lambda n, t, o: list(range(0, n, t)), "The step is tile, so that neighbours share nothing"),
    (guarded(lambda n, t, o: [*range(0, n - t, o), n - t]), "7 tiles, 3 are enough. The step is overlap"),
    (guarded(lambda n, t, o: [*range(0, n - t, t + o), n - t]), "The step is tile + overlap"),
    (guarded(lambda n, t, o: [*range(0, n - t, t - o - 1 or 1), n - t]), "4 tiles, 3 are enough"),
    (guarded(lambda n, t, o: [*range(0, n - t, t - o + 1), n - t]), "share 0 pixels, expected at least 1"),
    (guarded(lambda n, t, o: [*range(0, n - t, max(1, t // 2)), n - t]), "4 tiles, 3 are enough"),
    (guarded(lambda n, t, o: [*range(1, n - t, t - o), n - t]), "the first tile starts at 0"),
    (guarded(lambda n, t, o: by_range(n, t, o)[::-1]), "the first tile starts at 0"),
    (guarded(lambda n, t, o: [0, n - t]), "the tiles at 0 and 6 share 0 pixels"),
    (guarded(lambda n, t, o: sorted({*range(n - t), n - t})), "tiles, 3 are enough"),
    (lambda n, t, o: [*range(0, n - t, t - o), n - t], "tile_starts(3, 4, 2) is [-1], expected [0]"),
    (lambda n, t, o: list(range(0, n - t, t - o)) + ([n - t] if n > t else []), "tile_starts(4, 4, 2) is empty"),
    (lambda n, t, o: [*by_range(n, t, o), 0][: -1 if n > t else None], "is [0, 0], expected [0]"),
    (lambda n, t, o: range(0, n, t), "a value of type range, expected a list"),
    (lambda n, t, o: np.array(by_range(n, t, o)), "a NumPy array, expected a list"),
    (lambda n, t, o: [float(s) for s in by_range(n, t, o)], "holds something that is no int"),
    (lambda n, t, o: [(s, s + t) for s in by_range(n, t, o)], "holds something that is no int"),
    (lambda n, t, o: print(n), "not written yet"),
]


@pytest.mark.parametrize(("answer", "hints"), [(answer, hints) for answer, *hints in WRONG])
def test_tile_starts_rejects(answer, hints):
    assert_hint("tile_starts", answer, *hints)
