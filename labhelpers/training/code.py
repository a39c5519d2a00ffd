"""What code of a notebook does, as JSON: it has no version but itself, so a run's key must hold it."""

import dataclasses
import dis
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (int, float, complex, str, bytes, type(None), np.generic, torch.dtype, torch.device)


def code_of(thing: object) -> object:
    """A class (its methods) or a code object as JSON that changes with what it does, not with comments or layout."""
    if isinstance(thing, type):
        return {name: code_of(member.__code__) for name, member in vars(thing).items() if hasattr(member, "__code__")}
    if isinstance(thing, CodeType):
        return [thing.co_code.hex(), thing.co_names, [code_of(constant) for constant in thing.co_consts]]
    return sorted(map(repr, thing)) if isinstance(thing, frozenset) else repr(thing)


def function_name(function: Callable) -> str:
    """``my_loss``, for a ``functools.partial`` of it too."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def fingerprint(function: Callable) -> str:
    """Name and hash of a function, ``"my_loss 5f0c31d2a9b7"``: equal as long as it does the same.

    The hash covers the code, the defaults, and the values that the function reads from around it (closure, globals):
    numbers, strings, tensors, arrays, containers of them, the attributes of dataclasses and modules, and the code of
    functions and classes of the same notebook or file. Of anything else it covers the name of the type or library.
    A ``functools.partial`` counts as its function and arguments. Another Python version may give another hash.

    Raises:
        ValueError: a callable that is not a Python function.
    """
    inner = function
    while isinstance(inner, partial):
        inner = inner.func
    if not isinstance(inner, FunctionType | MethodType):
        raise ValueError(
            f"{inner!r} is not a Python function: a change of it could not be told, and results of the old one would "
            "be loaded for the new. Wrap it: def my_loss(logits, target): return ..."
        )
    text = json.dumps(_Reader(inner.__module__).read(function))
    return f"{function_name(function)} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


class _Reader:
    """Turns values into JSON; the code of functions and classes counts if they are of ``module`` or the notebook."""

    def __init__(self, module: str):
        self.own = ("__main__", module)
        self.seen: set[int] = set()  # functions and objects may name themselves

    def read(self, thing: object) -> object:
        if isinstance(thing, _PLAIN):
            return repr(thing)
        if isinstance(thing, tuple | list):
            return [type(thing).__name__, *map(self.read, thing)]
        if isinstance(thing, dict):
            return [type(thing).__name__, *([self.read(key), self.read(value)] for key, value in thing.items())]
        if isinstance(thing, set | frozenset):
            return ["set", *sorted(json.dumps(self.read(item)) for item in thing)]
        if isinstance(thing, Tensor):
            data = thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            return [str(thing.dtype), list(thing.shape), hashlib.sha256(data).hexdigest()]
        if isinstance(thing, np.ndarray):
            data = self.read(thing.tolist()) if thing.dtype.hasobject else hashlib.sha256(thing.tobytes()).hexdigest()
            return [str(thing.dtype), list(thing.shape), data]
        if isinstance(thing, partial):
            return ["partial", self.read(thing.func), self.read(thing.args), self.read(thing.keywords)]
        if isinstance(thing, MethodType):
            return ["method", self.read(thing.__func__), self.read(thing.__self__)]
        if isinstance(thing, ModuleType):
            return thing.__name__
        return self._code_or_object(thing)

    def _code_or_object(self, thing: object) -> object:
        named = thing if hasattr(thing, "__name__") else type(thing)
        module = getattr(named, "__module__", None)  # NumPy's functions have none
        name, own = f"{module}.{named.__name__}", module in self.own
        if id(thing) in self.seen:
            return name
        self.seen.add(id(thing))
        if isinstance(thing, FunctionType):
            return self._function(thing) if own else name
        if isinstance(thing, type):
            return self._class(thing) if own else name
        if own or dataclasses.is_dataclass(thing) or isinstance(thing, nn.Module | SimpleNamespace):
            return [name, self.read(type(thing)), self.read(getattr(thing, "__dict__", {}))]
        return name

    def _class(self, kind: type) -> object:
        members = {k: v for k, v in vars(kind).items() if isinstance(v, FunctionType) or not k.startswith("__")}
        return [self.read(kind.__bases__), self.read(members)]

    def _function(self, function: FunctionType) -> object:
        code, around = function.__code__, function.__globals__
        cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
        values = {
            "defaults": (function.__defaults__, function.__kwdefaults__),
            "closure": {name: cell.cell_contents for name, cell in cells if _filled(cell)},
            "globals": {name: around[name] for name in sorted(set(_global_names(code))) if name in around},
        }
        return [code_of(code), {name: self.read(value) for name, value in values.items()}]


def _global_names(code: CodeType) -> Iterator[str]:
    """Global names that the code and the functions inside it read; attributes' names are not among them."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)


def _filled(cell: object) -> bool:
    """Whether the variable of a closure has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True
