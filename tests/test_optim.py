"""Recipes, optimizers and schedules."""

import json
import linecache
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from training_toys import assert_same, tiny_net, tiny_recipe

from labhelpers.training import Recipe, Schedule, build_optimizer, learning_rates
from labhelpers.training.recipe import SCHEDULES

SCHEDULE_NEEDS = {"step": {"step_size": 10}, "milestones": {"milestones": (30, 60)}, "plateau": {"eval_every": 5}}


def recipe(schedule: str, **changes) -> Recipe:
    return Recipe(steps=100, lr=0.1, schedule=schedule, **SCHEDULE_NEEDS.get(schedule, {}), **changes)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", {99: 0.1}),
        ("step", {9: 0.1, 10: 0.01}),
        ("milestones", {29: 0.1, 30: 0.01, 99: 0.001}),
        ("poly", {0: 0.1, 50: 0.1 * 0.5**0.9}),
        ("cosine", {50: 0.05}),
        ("plateau", {99: 0.1}),
    ],
)
def test_learning_rates(schedule, rates):
    found = learning_rates(recipe(schedule))
    assert {step: found[step] for step in rates} == pytest.approx(rates)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SCHEDULES), st.integers(0, 50))
def test_warmup_rises_to_the_full_rate_and_then_never_rises(schedule, warmup):
    rates = learning_rates(recipe(schedule, warmup_steps=warmup))
    assert len(rates) == 100
    assert all(0 < rate <= 0.1 + 1e-12 for rate in rates)
    if schedule not in ("step", "milestones") and warmup:
        assert rates[:warmup] == pytest.approx([0.1 * (s + 1) / warmup for s in range(warmup)])
    assert all(a >= b for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimizers_are_fused_and_slow_on_the_backbone(name):
    model, numbers = tiny_net(), tiny_recipe(optimizer=name, backbone_factor=0.1, weight_decay=0.01)
    optimizer = build_optimizer(model, numbers)
    head, encoder = optimizer.param_groups
    assert (head["lr"], encoder["lr"]) == pytest.approx((0.01, 0.001))
    assert {id(p) for p in encoder["params"]} == {id(p) for p in model.encoder.parameters()}
    assert len(head["params"]) + len(encoder["params"]) == len(list(model.parameters()))
    assert all(group["fused"] and group["weight_decay"] == 0.01 for group in optimizer.param_groups)
    Schedule(optimizer, numbers).step(3)
    assert encoder["lr"] == pytest.approx(0.1 * head["lr"])


def test_fused_equals_torch_s_plain_adamw():
    models = [tiny_net(), tiny_net()]
    plain = torch.optim.AdamW(models[1].parameters(), 1e-2, weight_decay=1e-4)
    optimizers = [build_optimizer(models[0], tiny_recipe()), plain]
    for model, optimizer in zip(models, optimizers, strict=True):
        model.eval()
        for _ in range(3):
            model(torch.ones(1, 3, 8, 8)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same(*models, rtol=1.3e-6, atol=1e-5)


def test_backbone_factor_needs_an_encoder():
    model = nn.Conv2d(3, 2, 1)
    assert len(build_optimizer(model, tiny_recipe()).param_groups) == 1
    with pytest.raises(ValueError, match=r"backbone_factor=0.1 needs model.encoder, and Conv2d has none"):
        build_optimizer(model, tiny_recipe(backbone_factor=0.1))


def test_plateau_halves_after_patience_and_restores():
    numbers = recipe("plateau", plateau_patience=2)
    optimizer = build_optimizer(tiny_net(), numbers)
    schedule = Schedule(optimizer, numbers)
    for score in (0.5, 0.4, 0.5):  # two in a row no better: patience holds
        schedule.observe(score)
    assert schedule.step(0) == pytest.approx(0.1)
    schedule.observe(math.nan)  # an undefined score is no better one
    assert schedule.step(1) == pytest.approx(0.05)

    other = Schedule(build_optimizer(tiny_net(), numbers), numbers)
    other.state = dict(schedule.state)
    for each in (schedule, other):
        for score in (0.6, 0.1, 0.1, 0.1):
            each.observe(score)
        assert each.step(2) == pytest.approx(0.025)


def test_scores_before_the_first_defined_one_are_none_to_be_worse_than():
    numbers = recipe("plateau", plateau_patience=1)
    schedule = Schedule(build_optimizer(tiny_net(), numbers), numbers)
    rates = []
    for score in (math.nan, math.nan, math.nan, 0.5, 0.6, 0.4, 0.4):
        schedule.observe(score)
        rates.append(schedule.step(0))
    assert rates == pytest.approx([0.1] * 6 + [0.05])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "lion"}, "unknown optimizer 'lion'; known: adamw, adam, sgd"),
        ({"schedule": "exp"}, "unknown schedule 'exp'; known: constant, step, milestones, poly, cosine, plateau"),
        ({"loss": "hinge"}, "unknown loss 'hinge'.*known: ce"),
        ({"precision": "fp8"}, "unknown precision 'fp8'; known: auto"),
        ({"best_metric": "miou"}, "unknown best_metric 'miou'; known: mean_iou"),
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"lr": -1e-3}, "lr=-0.001"),
        ({"lr": math.nan}, "lr=nan"),
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"plateau_factor": 2.0}, "plateau_factor=2.0"),
        ({"clip_norm": 0.0}, "clip_norm=0.0"),
        ({"warmup_steps": 6}, "warmup_steps=6.*below steps=6"),
        ({"accumulate": 9}, "accumulate=9.*at most batch_size=4"),
        ({"schedule": "step"}, "step_size=0"),
        ({"schedule": "milestones"}, "milestones"),
        ({"schedule": "milestones", "milestones": (5, 3)}, "milestones"),
        ({"schedule": "plateau", "eval_every": 0}, "eval_every=0"),
        ({"loss": "weighted_ce"}, "class_weights"),
        ({"class_weights": (1.0, 2.0)}, "class_weights"),
        ({"augmentation": None}, "augmentation"),
        ({"loss": None}, "loss=None.*a name or a function"),
        ({"loss": nn.CrossEntropyLoss()}, r"CrossEntropyLoss\(\) is not a Python function.*Wrap it"),
        ({"loss": lambda x, y: x.mean(), "class_weights": "inverse"}, "class_weights='inverse' do not belong"),
    ],
)
def test_a_wrong_recipe_names_the_argument(change, message):
    with pytest.raises(ValueError, match=message):
        replace(tiny_recipe(), **change)


# --- a loss function as part of a recipe ---

SOURCE = """
import functools, math, torch
from types import SimpleNamespace
import torch.nn.functional as F

BETA = 2.0
WEIGHTS = torch.tensor([1.0, 2.0])
settings = SimpleNamespace(power=3)

def helper(x):  # called by my_loss
    return x.exp()

@functools.cache
def kernel():
    return 5

class Scale:
    factor = 4.0
    def __call__(self, x):
        return self.factor * x

def outer(gamma):
    weights = torch.ones(3)
    def my_loss(logits, target, eps=1e-6, *, names=("a", "b")):
        def inner(x):
            return BETA * x
        x = F.cross_entropy(logits, target, weight=WEIGHTS) ** gamma + eps
        return inner(helper(x)) * weights.sum() * settings.power * kernel() * Scale()(x) + my_loss.__code__.co_argcount
    return my_loss

my_loss = outer(1.5)
"""


def loss_from(source: str):
    """The function as a notebook defines it."""
    namespace, cell = {"__name__": "__main__"}, f"<cell {hash(source)}>"
    linecache.cache[cell] = (len(source), None, source.splitlines(keepends=True), cell)
    exec(compile(source, cell, "exec"), namespace)
    return namespace["my_loss"]


def identity(loss) -> dict:
    """What a recipe with this loss is known by; the loss is a function, or a cell's source that defines it."""
    return tiny_recipe(loss=loss_from(loss) if isinstance(loss, str) else loss).identity()


def test_equal_source_is_an_equal_recipe_and_json():
    found = identity(SOURCE)
    assert found == json.loads(json.dumps(found)) == identity(SOURCE.replace("def helper", "# moved\n\ndef helper"))
    assert found == identity(SOURCE + "\nexp = 3.0\ncross_entropy = [1, 2]\n")  # which only attributes are named after
    assert found["loss"].startswith("my_loss ")
    assert set(found) == set(tiny_recipe().identity())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("** gamma + eps", "** gamma - eps"),  # code
        ("F.cross_entropy", "F.nll_loss"),
        ("eps=1e-6", "eps=1e-5"),  # defaults
        ('("a", "b")', '("a", "c")'),
        ("outer(1.5)", "outer(1.6)"),  # closure
        ("torch.ones(3)", "torch.zeros(3)"),
        ("torch.ones(3)", "torch.ones(3, dtype=torch.float64)"),
        ("BETA = 2.0", "BETA = 3.0"),  # globals, here of an inner function
        ("[1.0, 2.0]", "[1.0, 2.1]"),
        ("power=3", "power=4"),
        ("x.exp()", "x.exp().exp()"),  # functions and classes it calls
        ("return 5", "return 6"),
        ("factor = 4.0", "factor = 5.0"),
        ("self.factor * x", "self.factor + x"),
    ],
)
def test_what_a_loss_function_does_is_part_of_the_recipe(old, new):
    assert old in SOURCE
    a, b = identity(SOURCE), identity(SOURCE.replace(old, new))
    assert a.pop("loss") != b.pop("loss")
    assert a == b


def power(logits, target, gamma, weights=None):
    return logits.mean() ** gamma


def test_a_partial_is_its_function_and_arguments():
    losses = [partial(power, gamma=1.0), partial(partial(power), gamma=3.0), partial(power, gamma=2.0)]
    losses += [partial(power, gamma=2.0, weights=torch.tensor([1.0, x])) for x in (2.0, 3.0)]
    names = [identity(loss)["loss"] for loss in losses]
    assert len(set(names)) == 5
    assert all(name.startswith("power ") for name in names)
    assert identity(partial(power, gamma=2.0))["loss"] == names[2]


def test_lambdas_of_one_line_are_told_apart():
    a, b = (lambda x, y: x.mean() + 1), (lambda x, y: x.mean() - 1)
    assert identity(a) == identity(a) != identity(b)


def test_a_function_without_a_source_is_refused():
    namespace = {}
    exec("def my_loss(logits, target):\n    return logits.mean()", namespace)
    with pytest.raises(ValueError, match="my_loss has no source to know it by: define it in a cell or in a file"):
        tiny_recipe(loss=namespace["my_loss"])
