"""Checks of lab 03's recipe: a learning rate for each part of the network, and how it falls over the steps."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from labhelpers.course.checks import references
from labhelpers.course.checks.compare import kind_of
from labhelpers.course.checks.core import Check, Mistake, exercise
from labhelpers.course.checks.formulas import check_formula

_IN_LIST = "`in` a list compares values, not objects: compare with `is`, or look for id(parameter) in a set of ids."
_ERRORS = {"must match the size": _IN_LIST, "value of Tensor with more than one value is ambiguous": _IN_LIST}


class _Net(nn.Module):
    """An encoder, and other layers and parameters of which two have "encoder" in their names."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1))
        )
        self.head = nn.ModuleDict({"encoder_projection": nn.Conv2d(4, 4, 1), "classifier": nn.Conv2d(4, 2, 1)})
        self.encoder_scale = nn.Parameter(torch.ones(4))
        self.offset = nn.Parameter(torch.zeros(4))


@exercise("parameter_groups", references.parameter_groups)
def parameter_groups(check: Check, answer) -> None:
    """Two factors: every parameter once, at its rate, left as it is; an optimizer takes the groups."""
    for lr, settings in ((0.02, {}), (0.5, {"backbone_factor": 0.3})):
        model = _Net()
        groups = _listed(check, check.call(answer, model, lr, errors=_ERRORS, **settings))
        _check_membership(check, model, groups)
        _check_rates(check, model, groups, lr, settings.get("backbone_factor", 0.1))
        kept = all(parameter.requires_grad for parameter in model.parameters())
        check.that(kept, "it changes requires_grad: a lower learning rate is no freezing, leave the parameters alone.")
        check.call(torch.optim.SGD, groups, when="when torch.optim.SGD is given the groups")


def _listed(check: Check, groups: Any) -> list[dict]:
    """The groups with their parameters in lists: an iterator can be read once, and the optimizer comes later."""
    expected = 'expected a list of dicts, [{"params": ..., "lr": ...}, ...]'
    check.that(
        isinstance(groups, (list, tuple)) and all(isinstance(group, dict) for group in groups),
        f"it returns {kind_of(groups)}: {expected}.",
    )
    listed = []
    for number, group in enumerate(groups):
        for key in ("params", "lr"):
            check.that(key in group, f'group {number} has no "{key}": {expected}.')
        parameters = group["params"]
        several = isinstance(parameters, Iterable) and not isinstance(parameters, (set, frozenset, str, nn.Module))
        if isinstance(parameters, torch.Tensor):
            parameters = [parameters]
        elif several or isinstance(parameters, nn.ParameterList):  # as optimizers do
            parameters = list(parameters)
        listed_now = isinstance(parameters, list)
        other = next((p for p in parameters if not isinstance(p, torch.Tensor)), None) if listed_now else None
        found = kind_of(parameters) if other is None else f"a list that holds {kind_of(other)}"
        hint = "expected a list of parameters: parameters(), not named_parameters(), and no set."
        check.that(listed_now and other is None, f'the "params" of group {number} are {found}; {hint}')
        rate = group["lr"]
        check.that(isinstance(rate, float), f'the "lr" of group {number} is {kind_of(rate)}, expected a Python float.')
        listed.append({**group, "params": parameters})
    return listed


def _check_membership(check: Check, model: _Net, groups: list[dict]) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    encoder = [name for name in names.values() if name.startswith("encoder.")]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    own = all(parameter in names for parameter in held)
    check.that(own, "a group holds something that is no parameter of the model: a copy, or a buffer of batch norm?")
    counts = Counter(names[parameter] for parameter in held)
    twice = next((name for name in counts if counts[name] > 1), "")
    rest = "is model.parameters() taken for the rest? It holds the encoder's, too"
    check.that(not twice, f"{twice} occurs in the groups more than once: {rest}.")
    missing = [name for name in names.values() if name not in counts]
    if not missing:
        return
    if set(encoder) <= set(missing):
        hint = "no parameter of model.encoder is in a group (is a generator read twice? It is empty the second time)."
    elif all("encoder" in name and name not in encoder for name in missing):
        hint = f"{missing[0]} is in no group: it has `encoder` in its name, but is no part of model.encoder."
    else:
        hint = f"{missing[0]} is in no group: take all of model.encoder.parameters(), and all that are not among them."
    raise Mistake(hint)


def _check_rates(check: Check, model: _Net, groups: list[dict], lr: float, factor: float) -> None:
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    encoder = {id(parameter) for parameter in model.encoder.parameters()}
    low = lr * factor

    def at(parameters, rate: float) -> bool:
        return all(abs(rates[parameter] - rate) < 1e-9 for parameter in parameters)

    rest = rates.keys() - encoder
    where = f"for lr={lr}, backbone_factor={factor}"
    known = [
        (at(encoder, lr) and at(rest, low), "the factor is on the wrong part: the encoder, pretrained, learns slower."),
        (at(rates, lr), "all parts have the same rate: the encoder's is lr * backbone_factor."),
        (at(rates, low), "all parts have the encoder's rate: only the encoder's is multiplied by backbone_factor."),
        (at(encoder, factor), "the encoder's rate is the factor itself: it is lr * backbone_factor."),
        (at(encoder, lr / factor), "the encoder's rate is divided by the factor: it is lr * backbone_factor."),
        (
            factor != 0.1 and at(encoder, lr * 0.1),
            "backbone_factor is not used, 0.1 is written by hand: lr * backbone_factor.",
        ),
    ]
    hints = [hint for found, hint in known if found]
    for name, parameter in model.named_parameters():
        expected = low if id(parameter) in encoder else lr
        hint = f"the rate of {name} {where} is {rates[id(parameter)]:.6g}, expected {expected:.6g}"
        if hints:
            hint = f"{hints[0]} Here {hint}"
        elif at(encoder, low) and "encoder" in name:
            hint += ": it has `encoder` in its name, but is no part of model.encoder. Take model.encoder.parameters()"
        check.that(abs(rates[id(parameter)] - expected) < 1e-9, f"{hint}.")


@exercise("poly_lr", references.poly_lr)
def poly_lr(check: Check, answer) -> None:
    """Steps from the first to the last, other powers, and the power's default."""
    with_default = [(0, 100, 0.02), (30, 100, 0.02), (99, 100, 0.02), (6, 7, 0.5)]
    cases = [(0, 50, 0.5, 2.0), (10, 50, 0.5, 2.0), (49, 50, 0.5, 2.0), (3, 7, 1.5, 0.5)]

    def left(step, steps):
        return 1 - step / steps

    mistakes = [
        (lambda s, n, lr, p=0.9: lr * (s / n) ** p, "the rate rises: 1 - step / steps is what is left of training."),
        (lambda s, n, lr, p=0.9: lr * left(s, n), "the power is left out: (1 - step / steps) ** power."),
        (
            lambda s, n, lr, p=0.9: lr * (1 - s // n) ** p,
            "`//` rounds step / steps down to 0, so the rate never falls: divide with `/`.",
        ),
        (
            lambda s, n, lr, p=0.9: lr * (1 - (s / n) ** p),
            "the exponent is on step / steps alone: it belongs on the whole bracket, (1 - step / steps) ** power.",
        ),
        (
            lambda s, n, lr, p=0.9: (lr * left(s, n)) ** p,
            "lr is raised to the power, too: lr * (...) ** power, the power binds first.",
        ),
        (
            lambda s, n, lr, p=0.9: lr * (1 - s / (n - 1)) ** p,
            "the denominator is steps - 1, so the last step has rate 0 and teaches nothing: divide by steps.",
        ),
        (
            lambda s, n, lr, p=0.9: lr * (1 - (s + 1) / n) ** p,
            "it is one step ahead: steps count from 0, and the first has the full rate.",
        ),
        (
            lambda s, n, lr, p=0.9: lr * (1 - s / n**p),
            "`**` binds before `/` and `-`: put the bracket around 1 - step / steps, (1 - step / steps) ** power.",
        ),
        (lambda s, n, lr, p=0.9: lr * left(s, n) ** (1 / p), "the exponent is 1 / power: it is power."),
        (lambda s, n, lr, p=1.0: lr * left(s, n) ** p, "the default of power is 0.9, as in the signature."),
        (lambda s, n, lr, p=0.9: left(s, n) ** p, "lr is left out: this is the factor it is multiplied by."),
        (lambda s, n, lr, p=0.9: lr * left(s, n) * p, "it multiplies by power: `**` raises to it."),
        (lambda s, n, lr, p=0.9: lr * left(s, n) ** 0.9, "0.9 is written by hand: use `power`."),
    ]
    rounding = 1e-6  # of float32
    check_formula(check, answer, "poly_lr", with_default + cases, references.poly_lr, mistakes, rounding)
