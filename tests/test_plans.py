"""What a command trains is what the notebook trains: recipes from the notebooks, and runs of other classes."""

import ast
import dataclasses
from pathlib import Path

import course_toys
import nbformat
import pytest
import torch
from torch import nn

from labhelpers import config, data, models, training
from labhelpers.course import finished
from labhelpers.course.plans import PLANS, find_plan
from labhelpers.prompting import prompt_loss

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def names_in(notebook: str, wanted: set[str], given: dict) -> dict:
    """The values that a notebook gives to some names before it trains, without running anything else of it."""
    space = dict(given)
    for cell in nbformat.read(NOTEBOOKS / notebook, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        for statement in ast.parse(cell.source).body:
            if (
                isinstance(statement, ast.Assign)
                and {t.id for t in statement.targets if isinstance(t, ast.Name)} & wanted
            ):
                exec(ast.unparse(statement), space)
        if "train_or_load(" in cell.source:
            return space
    raise AssertionError(f"{notebook} trains nothing")


@pytest.fixture(params=["smoke", "lab"])
def profile(request, monkeypatch):
    """The real numbers, but few scenes and no download."""
    return dataclasses.replace(config.PROFILES[request.param], data="scenes", scenes=(8, 4), scene_size=64)


def without_loss(recipe: training.Recipe) -> dict:
    return {name: value for name, value in recipe.identity().items() if name != "loss"}


def test_fcn_as_in_lab_02(profile):
    task = find_plan("fcn8s").task(profile)
    given = {"profile": profile, "training": training, "data": data, "train_set": task.train_set}
    own = names_in("02_fcn.ipynb", {"steps", "recipe"}, given)
    assert task.recipe.identity() == own["recipe"].identity()


def test_deeplab_as_in_lab_03(profile):
    task = find_plan("deeplabv3plus").task(profile)
    given = {"profile": profile, "training": training, "data": data, "dataclasses": dataclasses}
    given |= {"train_set": task.train_set, "val_set": task.test_set}
    own = names_in("03_deeplabv3plus.ipynb", {"steps", "fcn_recipe", "recipe", "epoch", "watched"}, given)
    assert task.recipe.identity() == own["recipe"].identity()
    assert task.val_set.fingerprint() == task.test_set.fingerprint()  # few images: all are watched


def test_unet_as_in_lab_04(profile):
    task, bilinear = (find_plan(name).task(profile) for name in ("unet", "unet_bilinear"))
    given = {"profile": profile, "training": training, "data": data, "dataclasses": dataclasses}
    given |= {"train_set": task.train_set, "binary_cross_entropy": lambda logits, target: logits.sum()}
    own = names_in("04_unet.ipynb", {"size", "heavy", "plain", "numbers", "epoch", "base", "recipes"}, given)
    assert without_loss(task.recipe) == without_loss(own["recipes"]["augmentation"])
    variant = dataclasses.replace(own["recipes"]["augmentation"], wandb=False, score_train=0)
    assert without_loss(bilinear.recipe) == without_loss(variant)


def test_mini_sam_as_in_lab_06(profile):
    task = find_plan("mini_sam").task(profile)
    given = {"profile": profile, "training": training, "data": data, "prompt_loss": prompt_loss}
    own = names_in("06_mini_sam.ipynb", {"settings", "recipe"}, given)
    assert without_loss(task.recipe) == without_loss(own["recipe"])


def test_names_are_those_of_models_build_and_of_the_notebooks():
    assert list(PLANS) == list(models.MODELS)
    text = "".join(path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob("0*.ipynb"))
    for plan in PLANS.values():
        assert plan.title in text, plan
    with pytest.raises(ValueError, match="unknown model 'vgg'; known: fcn32s, "):
        find_plan("vgg")


class Wrapped(nn.Module):
    """FCN-8s with a layer in a container of its own, as a student may write it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.encoder = model.encoder
        for name, layer in model.named_children():
            setattr(self, name, nn.Sequential(layer) if name == "score_pool4" else layer)

    def forward(self, images):
        _, layer2, layer3, layer4 = self.encoder(images)
        x = self.upscore2(self.score_fr(layer4)) + self.score_pool4(layer3)
        return self.upscore8(self.upscore_pool4(x) + self.score_pool3(layer2))


def test_the_run_of_a_students_class_is_found_and_loaded(monkeypatch, tmp_path, capsys):
    profile = course_toys.use_short_profile(monkeypatch, tmp_path)
    plan = find_plan("fcn8s")
    task = plan.task(profile)
    assert finished.find_run(plan, task, profile) is None
    with pytest.raises(FileNotFoundError, match=r"FCN-8s is not trained in the profile smoke .*labhelpers train fcn8s"):
        finished.require_run(plan, task, profile)

    own = Wrapped(plan.new_model(profile, task))
    training.train_or_load("FCN-8s", own, task.train_set, task.val_set, task.recipe)
    run = finished.find_run(plan, task, profile)
    model = finished.load_model(run, plan, task, profile)
    assert type(model) is models.FCN8s
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x.to(next(model.parameters()).device)).cpu(), own.eval().cpu()(x))
    assert [found.folder for _, _, found in finished.find_all(profile)] == [run.folder]

    other = dataclasses.replace(task, recipe=dataclasses.replace(task.recipe, lr=1.0))
    assert finished.find_run(plan, other, profile) is None
    run.info["best_score"] += 0.1  # as if the order of the layers were another one
    with pytest.raises(ValueError, match="other names than the library's"):
        finished.load_model(run, plan, task, profile)


def test_matched_goes_by_name_order_and_needs_equal_shapes():
    own = {"a.2.weight": torch.zeros(2), "a.10.weight": torch.zeros(3), "b": torch.zeros(1)}
    theirs = {"b": torch.ones(1), "x.3.0.weight": torch.ones(3), "x.1.0.weight": torch.ones(2)}
    found = finished.matched(own, theirs, {"x.": "a."})
    assert {name: len(tensor) for name, tensor in found.items()} == {"a.2.weight": 2, "a.10.weight": 3, "b": 1}
    assert finished.matched(own, {**theirs, "more": torch.ones(1)}) == {**theirs, "more": torch.ones(1)}


def test_any_loss_counts_where_the_loss_is_an_exercise(monkeypatch, tmp_path):
    profile = course_toys.use_short_profile(monkeypatch, tmp_path)
    plan = find_plan("unet")
    task = plan.task(profile)

    def own_loss(logits, target):
        return nn.functional.cross_entropy(logits, target.long(), ignore_index=255)

    recipe = dataclasses.replace(task.recipe, loss=own_loss)
    training.train_or_load(plan.run, plan.new_model(profile, task), task.train_set, task.val_set, recipe)
    assert finished.find_run(plan, task, profile) is not None
    assert finished.find_run(dataclasses.replace(plan, own_loss=False), task, profile) is None
