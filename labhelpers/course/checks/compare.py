"""How two values are compared, and how a difference is put into words."""

from collections.abc import Iterable
from itertools import permutations
from typing import Any

import numpy as np
import torch

_KINDS = {np.ndarray: "a NumPy array", torch.Tensor: "a torch tensor", float: "a Python float", int: "a Python int"}
_CONVERSIONS = {
    (torch.Tensor, np.ndarray): " Convert it with `.numpy()`.",
    (np.ndarray, torch.Tensor): " Convert it with `torch.from_numpy(...)`.",
    (torch.Tensor, float): " Convert it with `.item()`, which also lets go of the graph behind it.",
    (torch.Tensor, int): " Convert it with `.item()`.",
    (float, int): " Use integer arithmetic (`//` instead of `/`).",
    (int, float): " Convert it with `float(...)`.",
}


def difference(
    found: Any,
    expected: Any,
    what: str,
    mistakes: Iterable[tuple[Any, str]] = (),
    tolerance: float = 1e-5,
) -> str:
    """The hint that tells ``found`` from ``expected``; "" when kind, shape, dtype and every value agree.

    Args:
        expected: an array, a tensor, a float or an int; ``found`` must be of the same kind.
        what: what is compared, in words, the beginning of the sentence.
        mistakes: pairs (what a known mistake would give, its hint), tried in order before the general answers.
        tolerance: greatest absolute difference that counts as equal.
    """
    hint = _other_kind(found, expected, what)
    if hint:
        return hint
    a, b = _numbers(found), _numbers(expected)
    if _same(a, b, tolerance):
        if isinstance(expected, (np.ndarray, torch.Tensor)) and found.dtype != expected.dtype:
            return f"{what} has the right values, but its dtype is {found.dtype}; expected {expected.dtype}."
        return ""
    for wrong, hint in mistakes:
        if _same(a, _numbers(wrong), tolerance):
            return hint
    if a.ndim == b.ndim <= 4:
        for axes in permutations(range(a.ndim)):
            if _same(a.transpose(axes), b, tolerance):
                return (
                    f"{what} holds the right values with its axes in another order: its shape is {a.shape}, expected "
                    f"{b.shape}."
                )
    if a.shape != b.shape:
        return f"{what} has shape {a.shape}, expected {b.shape}."
    if a.ndim == 0:
        return f"{what} is {float(a):.6g}, expected {float(b):.6g}."
    places = np.argwhere(~_close(a, b, tolerance))
    first = tuple(int(i) for i in places[0])
    return (
        f"{what} differs in {len(places)} of {a.size} values, first at {list(first)}: expected {float(b[first]):.6g}, "
        f"found {float(a[first]):.6g}."
    )


def kind_of(value: Any) -> str:
    """What a value is, in words: "a torch tensor", "a value of type dict"."""
    return next(
        (words for kind, words in _KINDS.items() if _is(value, kind)), f"a value of type {type(value).__name__}"
    )


def copied(value: Any) -> Any:
    """A copy of a tensor or array, anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    return value.copy() if isinstance(value, np.ndarray) else value


def unchanged(before: Any, after: Any) -> bool:
    """Whether ``after``, once a copy of ``before``, still equals it; only tensors and arrays are looked at."""
    if isinstance(before, (np.ndarray, torch.Tensor)):
        return _same(_numbers(after), _numbers(before), 0.0)
    return True


def _other_kind(found: Any, expected: Any, what: str) -> str:
    kind = next(kind for kind in _KINDS if _is(expected, kind))
    if _is(found, kind):
        numeric = _numbers(found).dtype.kind in "biuf"
        return "" if numeric else f"{what} has dtype {found.dtype}, expected {expected.dtype}."
    conversion = next((text for (a, b), text in _CONVERSIONS.items() if b is kind and _is(found, a)), "")
    return f"{what} is {kind_of(found)}, expected {_KINDS[kind]}.{conversion}"


def _is(value: Any, kind: type) -> bool:
    numbers = {float: (float, np.floating), int: (int, np.integer)}
    return isinstance(value, numbers.get(kind, kind)) and not isinstance(value, bool)


def _numbers(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()  # NumPy has no bfloat16
    return np.asarray(value)


def _same(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return a.shape == b.shape and bool(_close(a, b, tolerance).all())


def _close(a: np.ndarray, b: np.ndarray, tolerance: float) -> np.ndarray:
    """Elementwise, in float64 so that unsigned bytes do not wrap around; NaN equals NaN and inf equals inf."""
    return np.isclose(a.astype(np.float64), b.astype(np.float64), rtol=0, atol=tolerance, equal_nan=True)
