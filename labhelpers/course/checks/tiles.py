"""Check of lab 04's tiles: where windows begin that together cover a side of a large image."""

import numpy as np

from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, exercise
from labhelpers.evaluation import tiles

# The cases without overlap come last: who takes overlap for the step would never end there.
_CASES = [
    (10, 4, 1),
    (11, 4, 1),
    (9, 4, 1),
    (20, 8, 6),
    (100, 32, 8),
    (4, 4, 2),
    (3, 4, 2),
    (5, 4, 2),
    (8, 4, 0),
    (9, 4, 0),
]


@exercise("tile_starts", tiles.tile_starts)
def tile_starts(check: Check, answer) -> None:
    """Lengths that fit exactly, that leave a rest, that are no longer than a tile; large overlap and none.

    Any list with the properties passes: starts spread evenly as well as a last tile that is moved back.
    """
    for length, tile, overlap in _CASES:
        case = f"tile_starts({length}, {tile}, {overlap})"
        errors = {"must not be zero": "the step from tile to tile is tile - overlap, not overlap."}
        starts = check.call(answer, length, tile, overlap, when=f"for {case}", errors=errors)
        check.that(isinstance(starts, list), f"{case} is {kind_of(starts)}, expected a list.")
        whole = all(isinstance(s, (int, np.integer)) and not isinstance(s, bool) for s in starts)
        check.that(whole, f"{case} holds something that is no int: use integer arithmetic (`//`, `range`).")
        check.that(bool(starts), f"{case} is empty: a length that fits into one tile has the one start 0.")
        _check_starts(check, [int(s) for s in starts], length, tile, overlap, case)


def _check_starts(check: Check, starts: list[int], length: int, tile: int, overlap: int, case: str) -> None:
    found, step = f"{case} is {starts}", tile - overlap
    if length <= tile:
        check.that(starts == [0], f"{found}, expected [0]: the length fits into one tile.")
        return
    first = starts[1] - starts[0] if len(starts) > 1 else step
    known = {tile: "tile, so that neighbours share nothing", overlap: "overlap", tile + overlap: "tile + overlap"}
    why = f" The step is {known[first]}: it is tile - overlap = {step}." if first != step and first in known else ""
    check.that(starts[0] == 0, f"{found}: the first tile starts at 0.")
    check.that(sorted(set(starts)) == starts, f"{found}: starts rise, and none occurs twice.{why}")
    end, flush = starts[-1] + tile, f"the last tile starts at length - tile = {length - tile}, flush with the end"
    check.that(end <= length, f"{found}: the last tile ends at {end}, beyond the length {length}; {flush}.{why}")
    check.that(end == length, f"{found}: pixels {end} to {length - 1} are in no tile; {flush}.{why}")
    for a, b in zip(starts, starts[1:], strict=False):
        shared = f"{max(0, a + tile - b)} pixels, expected at least {overlap}"
        check.that(b - a <= step, f"{found}: the tiles at {a} and {b} share {shared}.{why}")
    enough = -(-(length - tile) // step) + 1
    more = f"{found}: {len(starts)} tiles, {enough} are enough. Is one added though the one before ends flush already?"
    check.that(len(starts) == enough, f"{found}: {len(starts)} tiles, {enough} are enough.{why}" if why else more)
