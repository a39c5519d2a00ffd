"""The trainings of the labs, each written once: model, data and recipe, for notebooks, commands and the report.

A notebook trains the student's own class, whose code is part of the run's key; here the library's class is trained.
Either is found from here and from the notebooks of later labs: a finished run counts if it agrees in all but the class.
"""

import dataclasses
import io
import math
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from labhelpers import config, data, evaluation, models, prompting
from labhelpers.config import Profile
from labhelpers.course.setup import begin
from labhelpers.data import Augmentation, SegmentationDataset, Splits
from labhelpers.data.voc import ObjectDataset
from labhelpers.files import read_json
from labhelpers.models.shipped import REMEDY
from labhelpers.prompting.task import PromptTask
from labhelpers.training import InstanceTask, ObjectMaps, Recipe, Run, load_finished, train_or_load
from labhelpers.training.instances import painted
from labhelpers.training.run import FinishedRun, finished_runs
from labhelpers.training.task import CLASS_LABELS, Task, make_accelerator

PROMPTS = ("box", "jittered_box", "centre_click", "random_click")
SIZE = (512, 512)  # pixels, for which costs are measured in every lab
BENCHMARKS = Path(__file__).with_name("benchmarks.json")  # shipped, for the notebooks that show them


@dataclass(frozen=True)
class Plan:
    """One network of the course and its training, in the numbers of whichever profile: here those of lab 02."""

    lab: ClassVar[str] = "02"
    own_loss: ClassVar[bool] = False  # its loss is an exercise: any function counts as the same
    prompted: ClassVar[bool] = False  # answers prompts: its scores are not those of the results table
    finds_objects: ClassVar[bool] = False  # one by one: its scores are average precisions, in a table of their own

    name: str  # as `models.build` and the command line know it
    title: str  # its row in the results table
    run: str  # what its training is called on the disk

    def open(self, profile: Profile, objects: bool = False) -> Splits:
        """The data; prints which they are.

        Args:
            objects: only data in which objects are told apart, see `data.open_course_data`.
        """
        train_set, val_set = map(data.cache, data.open_course_data(profile, objects))
        return Splits(train_set, self.watched(profile, val_set), val_set)

    def watched(self, profile: Profile, val_set: SegmentationDataset) -> SegmentationDataset:
        """What is scored while it trains: of what is watched already, all."""
        return val_set

    def recipe(self, profile: Profile, train_set: SegmentationDataset) -> Recipe:
        steps = profile.training_steps(len(train_set))
        augmentation = Augmentation(**vars(profile.augmentation))
        numbers = fitted(profile.recipe, steps)
        return Recipe(steps, augmentation=augmentation, eval_every=math.ceil(steps / 8), **numbers)

    def task(self, profile: Profile) -> Task:
        return CLASS_LABELS

    def options(self, profile: Profile) -> dict[str, Any]:
        """Of `models.build`."""
        return profile.model_options

    def build(self, num_classes: int, **options: Any) -> nn.Module:
        """The library's network."""
        return models.build(self.name, num_classes, **options)

    def evaluate(self, model: nn.Module, dataset: Any) -> evaluation.Evaluation | evaluation.InstanceEvaluation:
        """The scores of which its lab reports."""
        return evaluation.evaluate(model, dataset, batch_size=8)

    def label_map(self, model: nn.Module, image: torch.Tensor) -> torch.Tensor:
        """What the network makes of an image uint8 (3, H, W), as classes uint8 (H, W)."""
        return evaluation.predict(model, image)

    def encoder(self, profile: Profile) -> nn.Module:
        """The encoder of a network of lab 02 or 03 before training, the same every time: torch is seeded with 0.

        A network of the library built on it next has the weights of `Experiment.new_model`.
        """
        _, of_encoder = models.MODELS[self.name]
        options = of_encoder | self.options(profile)
        torch.manual_seed(0)
        return models.build_encoder(**{name: options[name] for name in (*of_encoder, "pretrained")})


def fitted(recipe: config.RecipeConfig, steps: int) -> dict[str, Any]:
    """Its fields; the few steps that epochs of few images have are warmed up in a tenth of them."""
    return vars(dataclasses.replace(recipe, warmup_steps=min(recipe.warmup_steps, steps // 10)))


def recipe_of(settings: Any, **more: Any) -> Recipe:
    """The recipe of a lab whose settings name its numbers as `Recipe` does; `more` is added, or wins."""
    names = {field.name for field in dataclasses.fields(Recipe)} & vars(settings).keys()
    numbers = {name: getattr(settings, name) for name in names}
    return Recipe(**{**numbers, "augmentation": Augmentation(**vars(settings.augmentation)), **more})


class FCN(Plan):
    """Lab 02, scored eight times in a training: on few enough images that this takes less time than training."""

    def watched(self, profile: Profile, val_set: SegmentationDataset) -> SegmentationDataset:
        return val_set if len(val_set) <= profile.watched else data.subset(val_set, profile.watched)


class DeepLab(FCN):
    """Lab 03."""

    lab = "03"

    def open(self, profile: Profile, objects: bool = False) -> Splits:
        splits = super().open(profile, objects)
        if len(splits.train) < 2:
            raise ValueError(
                f"{splits.train.name}/{splits.train.split} has one image, but DeepLab's batch norm after pooling needs "
                "batches of at least two: add training images."
            )
        return splits

    def recipe(self, profile: Profile, train_set: SegmentationDataset) -> Recipe:
        settings = profile.deeplab
        steps = settings.steps or profile.training_steps(len(train_set))
        augmentation = Augmentation(**vars(dataclasses.replace(profile.augmentation, crop=settings.crop)))
        numbers = fitted(settings.recipe or profile.recipe, steps)
        return Recipe(steps, augmentation=augmentation, eval_every=math.ceil(steps / 8), **numbers)

    def loss_recipe(self, profile: Profile, train_set: SegmentationDataset) -> Recipe:
        """That in which losses are compared: fewer steps, scored six times."""
        steps = profile.deeplab.loss_steps
        return dataclasses.replace(self.recipe(profile, train_set), steps=steps, eval_every=math.ceil(steps / 6))

    def context(self, profile: Profile) -> tuple[Profile, Splits, Recipe]:
        """The test of ASPP behind an encoder that sees little: on drawn scenes, whole ones, whatever the profile.

        Returns:
            The profile whose encoder has seen drawings, its scenes, and the recipe: few steps, scored at the end.
        """
        drawn = profile if profile.data == "scenes" else config.shortened(config.PROFILES["smoke"])
        scenes = Splits(*map(data.cache, data.open_splits("scenes", drawn)))
        recipe = self.recipe(drawn, scenes.train)
        whole = dataclasses.replace(recipe.augmentation, crop=drawn.scene_size)
        steps = drawn.deeplab.context_steps
        return drawn, scenes, dataclasses.replace(recipe, steps=steps, augmentation=whole, eval_every=0)

    def options(self, profile: Profile) -> dict[str, Any]:
        return {**profile.model_options, **profile.deeplab.model_options}


class UNet(Plan):
    """Lab 04, on jigsaw pictures."""

    lab = "04"
    own_loss = True

    def open(self, profile: Profile, objects: bool = False) -> Splits:
        return Splits(*map(data.cache, data.open_splits("jigsaw", profile, jigsaw_size=profile.unet.jigsaw_size)))

    def recipe(self, profile: Profile, train_set: SegmentationDataset) -> Recipe:
        settings = profile.unet
        eval_every = data.steps_per_epoch(train_set, settings.batch_size) * settings.eval_epochs
        augmentation = Augmentation(
            crop=settings.jigsaw_size,
            scale=(0.8, 1.25),
            rotation=180,  # degrees: a table has no top
            elastic=settings.jigsaw_size / 32,  # pixels
            brightness=0.1,
            contrast=0.1,
            saturation=0.1,
        )
        return Recipe(
            steps=eval_every * math.ceil(settings.steps / eval_every),  # it ends with an evaluation
            batch_size=settings.batch_size,
            augmentation=augmentation,
            loss="bce",
            optimizer="adam",
            lr=settings.lr,
            weight_decay=0.0,
            warmup_steps=settings.warmup_steps,
            eval_every=eval_every,
            score_train=settings.score_train,
        )

    def options(self, profile: Profile) -> dict[str, Any]:
        return {"base_channels": profile.unet.base_channels}


class MiniSAM(Plan):
    """Lab 06, on objects."""

    lab = "06"
    own_loss = True
    prompted = True

    def open(self, profile: Profile, objects: bool = True) -> Splits:
        train_set, val_set = data.open_course_data(profile, objects)
        most = profile.mini_sam.images
        if most is not None and len(train_set) > most:
            train_set = data.subset(train_set, most)
        train_set, val_set = (ObjectDataset(data.cache(part)) for part in (train_set, val_set))
        return Splits(train_set, val_set, val_set)

    def recipe(self, profile: Profile, train_set: SegmentationDataset) -> Recipe:
        return recipe_of(profile.mini_sam, clip_norm=1.0, schedule="cosine")

    def task(self, profile: Profile) -> PromptTask:
        settings = profile.mini_sam
        return PromptTask(
            prompts=settings.prompts,
            kinds=settings.kinds,
            points=settings.points,
            rounds=settings.rounds,
            smallest=settings.smallest,
            eval_objects=settings.eval_objects,
        )

    def options(self, profile: Profile) -> dict[str, Any]:
        settings = profile.mini_sam
        return {"backbone": settings.backbone, "width": settings.width, "pretrained": settings.pretrained}

    def encoder(self, profile: Profile) -> nn.Module:
        torch.manual_seed(0)
        return models.build_encoder(**self.options(profile))

    def build(self, num_classes: int, **options: Any) -> nn.Module:
        return models.BaseMiniSAM(models.build_encoder(**options), num_classes)


class MaskRCNN(Plan):
    """Lab 08: it learns from maps of classes and objects, and is scored on objects."""

    lab = "08"
    finds_objects = True

    def open(self, profile: Profile, objects: bool = True) -> Splits:
        train_set, val_set = data.open_course_data(profile, objects)
        val_set = data.cache(val_set)
        watched = data.subset(val_set, min(profile.mask_rcnn.watched, len(val_set)))
        return Splits(data.cache(ObjectMaps(train_set)), *map(data.InstanceDataset, (watched, val_set)))

    def recipe(self, profile: Profile, train_set: SegmentationDataset) -> Recipe:
        return recipe_of(profile.mask_rcnn, clip_norm=1.0, best_metric="mask_ap")

    def task(self, profile: Profile) -> InstanceTask:
        return InstanceTask(profile.mask_rcnn.smallest)

    def options(self, profile: Profile) -> dict[str, Any]:
        return profile.mask_rcnn.model_options

    def build(self, num_classes: int, **options: Any) -> nn.Module:
        return models.mask_rcnn(num_classes, **options)

    def evaluate(self, model: nn.Module, dataset: Any) -> evaluation.InstanceEvaluation:
        device = next(model.parameters()).device
        return evaluation.evaluate_instances(partial(models.instances_of, model), dataset, device=device)

    def label_map(self, model: nn.Module, image: torch.Tensor) -> torch.Tensor:
        return painted(models.instances_of(model, image).above(0.5))


PLANS = {
    plan.name: plan
    for plan in (
        FCN("fcn32s", "FCN-32s", run="FCN-32s"),
        FCN("fcn16s", "FCN-16s", run="FCN-16s"),
        FCN("fcn8s", "FCN-8s", run="FCN-8s"),
        DeepLab("deeplabv3", "DeepLabV3", run="DeepLabV3"),
        DeepLab("deeplabv3plus", "DeepLabV3+", run="DeepLabV3+"),
        UNet("unet", "U-Net", run="U-Net, augmentation"),
        UNet("unet_bilinear", "U-Net, bilinear", run="U-Net, bilinear"),
        MiniSAM("mini_sam", "Mini-SAM", run="Mini-SAM"),
        MaskRCNN("mask_rcnn", "Mask R-CNN", run="Mask R-CNN"),
    )
}


def find_plan(name: str) -> Plan:
    """The plan of that name.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if name not in PLANS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(PLANS)}")
    return PLANS[name]


def backbones_recipe(profile: Profile, pretrained: bool, seed: int = 0, wandb: bool = False) -> Recipe:
    """Lab 05's recipe, the same for each network but for its encoder's rate.

    Args:
        pretrained: the encoder starts from ImageNet's weights: it stays frozen for some or all steps, and learns more
            slowly afterwards.
    """
    as_the_rest = {} if pretrained else {"freeze_encoder_steps": 0, "backbone_factor": 1.0}
    return recipe_of(profile.backbones, **as_the_rest, best_metric="val_loss", seed=seed, wandb=wandb)


@dataclass(frozen=True)
class Experiment:
    """A plan in the numbers of a profile, with its data."""

    plan: Plan
    profile: Profile
    data: Splits

    @classmethod
    def open(cls, name: str, profile: Profile, **options: bool) -> "Experiment":
        """The experiment of `find_plan(name)`; prints which data it works on. Options are those of `Plan.open`."""
        plan = find_plan(name)
        return cls(plan, profile, plan.open(profile, **options))

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe(self.profile, self.data.train)

    @property
    def task(self) -> Task:
        return self.plan.task(self.profile)

    def new_model(self, pretrained: bool = True, **changes: Any) -> nn.Module:
        """The network before training, from the same random numbers every time.

        Args:
            pretrained: False leaves pretrained weights out, for a model that is about to load others.
            changes: options of `models.build` that differ from the plan's.
        """
        options = self.plan.options(self.profile) | changes
        options["pretrained"] = pretrained and options.get("pretrained", False)
        torch.manual_seed(0)
        return self.plan.build(1 if self.plan.prompted else self.data.train.num_classes, **options)

    def find(self) -> FinishedRun | None:
        """The newest finished run: same data and recipe, any class, and any loss if that is an exercise."""
        return next(iter(finished_runs(self.plan.run, **self._terms, any_loss=self.plan.own_loss)), None)

    def require(self) -> FinishedRun:
        """As `find`.

        Raises:
            FileNotFoundError: there is none; says how to train it.
        """
        run = self.find()
        if run is None:
            raise FileNotFoundError(
                f"{self.plan.title} is not trained in the profile {self.profile.name} (looked in "
                f"{config.checkpoints_root()}). Run: labhelpers train {self.plan.name}"
            )
        return run

    def load(self, run: FinishedRun) -> nn.Module:
        """The library's network with the weights of the run's best evaluation, in eval mode, on the device that trains.

        Raises:
            DamagedCheckpoint: a file is missing or altered.
            ValueError: names or shapes of the weights are not the library's; says where they lie.
        """
        return run.load(self.new_model(pretrained=False))

    def train(self, sync_batch_norm: bool = False) -> Run:
        """Loads what was trained, whoever's class it was, or trains the library's network; prints which."""
        model, terms = self.new_model(pretrained=False), self._terms
        terms["recipe"] = dataclasses.replace(self.recipe, sync_batch_norm=sync_batch_norm)
        loaded = load_finished(self.plan.run, model, **terms, any_loss=self.plan.own_loss)
        if loaded is not None:
            return loaded
        unfit = self.find()
        if unfit is not None:
            print(f"{self.plan.title} is trained anew: damaged, or not of the library's names: {unfit.weights}")
        return train_or_load(self.plan.run, self.new_model(), **terms)

    @property
    def _terms(self) -> dict[str, Any]:
        watched = self.plan.watched(self.profile, self.data.val)
        return {"train_set": self.data.train, "val_set": watched, "recipe": self.recipe, "task": self.task}

    def add_to_table(self, run: FinishedRun, model: nn.Module) -> evaluation.ResultsTable:
        """Scores the network on the images that its lab reports on, and files it as the lab's notebook does."""
        measured = self.plan.evaluate(model, self.data.test)
        return file_results({self.plan.title: Run(**vars(run), model=model, loaded=True)}, {self.plan.title: measured})

    def predictor(self, model: nn.Module, name: str = "Mini-SAM") -> prompting.OneLook:
        """The network as lab 06 asks it: one look at the whole image, reduced to the size of a training crop."""
        return prompting.OneLook(model, name, self.profile.mini_sam.augmentation.crop)

    def prompt_scores(self, model: Any) -> prompting.PromptScores:
        """Scores a network that answers prompts on the objects that lab 06 judges.

        These are all objects of some validation images, spread over the set, that are not too small.
        """
        settings = self.profile.mini_sam
        images: Any = self.data.test
        of_image: dict[int, list[prompting.ObjectRef]] = {}
        for item in prompting.objects(images.dataset, min_side=settings.min_side):
            of_image.setdefault(item.index, []).append(item)
        step = -(-len(of_image) // settings.judged_images)
        judged = [item for items in list(of_image.values())[::step] for item in items]
        return prompting.evaluate_prompts(self.predictor(model), judged, PROMPTS)


def train(name: str, sync_batch_norm: bool = False) -> None:
    """What `labhelpers train NAME` does, in one process or in several that were started to train together.

    The first of them opens, and if need be makes, the data before the others do, and alone says which they are.
    """
    lab = find_plan(name).lab
    accelerator = make_accelerator()
    main = accelerator.is_main_process
    with nullcontext() if main else redirect_stdout(io.StringIO()):
        with accelerator.main_process_first():
            experiment = Experiment.open(name, begin(lab))
        experiment.train(sync_batch_norm)


def file_results(
    runs: Mapping[str, Run], measured: Mapping[str, evaluation.Evaluation | evaluation.InstanceEvaluation]
) -> evaluation.ResultsTable:
    """Measures what each network costs and puts its row, named as here, into the results table on the disk.

    In a profile that learns nothing, nothing is stored. A detector resizes what it is given, and how long it takes
    depends on what it finds: its time is the median over the images on which it was scored.

    Args:
        measured: the evaluation of each run, all under one protocol, which says which table it is.
    """
    key = next(iter(measured.values())).protocol.key
    table = evaluation.ResultsTable(config.checkpoints_root() / f"results-{key}.json")
    for name, run in runs.items():
        scored = measured[name]
        if isinstance(scored, evaluation.InstanceEvaluation):
            costs: dict[str, Any] = {"parameters": evaluation.count_parameters(run.model)}
            costs |= {"inference_ms": 1e3 * scored.seconds_per_image, "cost_size": scored.protocol.size}
        else:
            costs = evaluation.costs(run.model, SIZE, warmup=1, runs=5)
        table.add(name, scored, seed=run.facts["recipe"]["seed"], minutes=run.minutes, **costs)
    return table


def benchmark(name: str) -> dict[str, Any]:
    """What one of the benchmarks has measured over several seeds, with the protocol that says how.

    Args:
        name: `"unet"` or `"backbones"`, the script below benchmarks/ that measured and stored it.

    Returns:
        protocol: a sentence; seeds: the list of them; scores: {variant: {score: [of each seed]}}.
    """
    try:
        return read_json(BENCHMARKS)[name]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{BENCHMARKS} is damaged, or lacks {name} ({error}): {REMEDY}") from error


def find_all(profile: Profile) -> list[tuple[Experiment, FinishedRun]]:
    """The finished runs of all plans, in the order of the labs.

    Data are opened, which may mean a download, only where a run of that name is on the disk, and once for each lab.
    """
    names = set()
    for path in config.checkpoints_root().glob("*/*/run.json"):
        with suppress(ValueError, KeyError, TypeError):  # damaged; no run is loaded from it either
            names.add(read_json(path)["name"])
    opened: dict[str, Splits] = {}
    found = []
    for plan in PLANS.values():
        if plan.run in names:
            if plan.lab not in opened:
                opened[plan.lab] = plan.open(profile)
            experiment = Experiment(plan, profile, opened[plan.lab])
            run = experiment.find()
            if run is not None:
                found.append((experiment, run))
    return found
