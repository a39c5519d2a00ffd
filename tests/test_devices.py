"""Faults of a GPU, found without one: a tensor left on the CPU, where torch pretends CUDA, and float16 that overflows.

What is pretended has shapes, types and devices but no numbers, and no gradient is computed. Where the code asks for
numbers it is told some.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from prompting_toys import photo
from test_library import TIMM
from test_mask_rcnn import SETS, Objects
from test_mask_rcnn import small as detector
from test_mini_sam import STRIDES, new, photos, prompts, taken
from test_models import VARIANTS
from test_models import small as network
from tiny_sam import write_tiny_sam
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from training_toys import own_ce

from labhelpers.data import to_input
from labhelpers.models import BaseMiniSAM, build_smp
from labhelpers.models.library import ARCHITECTURES
from labhelpers.models.sam import halve, load_sam_folder
from labhelpers.prompting import MiniSamPredictor, OneLook, SamPredictor, sam_loss
from labhelpers.prompting import predictor as predictor_module
from labhelpers.prompting import sam as sam_module
from labhelpers.prompting.task import PromptTask, sample_prompts, step_loss
from labhelpers.training.instances import as_target
from labhelpers.training.losses import LOSSES, build_loss

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{" ".join([name, *map(str, changes.values())]): partial(network, name, **changes) for name, changes in VARIANTS},
    **{f"smp {architecture}": partial(build_smp, architecture, TIMM, 5) for architecture in ARCHITECTURES},
    "smp segformer mit": partial(build_smp, "segformer", "mit_b0", 5),
    **{f"mini_sam {name} {k}": partial(new, name, k) for name in STRIDES for k in (1, 21)},
}
KINDS = [*LOSSES, "ce+0.5*dice", own_ce]
each_network = pytest.mark.parametrize("name", NETWORKS)
each_loss = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: getattr(kind, "__name__", kind))


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]()


def given(model: nn.Module) -> dict[str, Tensor]:
    """Four images, and prompts for a network that takes them."""
    torch.manual_seed(1)
    images = to_input(photos(4))
    return {"images": images, **taken(model, prompts(4))} if isinstance(model, BaseMiniSAM) else {"images": images}


def answer(model: nn.Module, asked: dict[str, Tensor]) -> tuple[Tensor, ...]:
    found = model(**asked) if isinstance(model, BaseMiniSAM) else model(asked["images"])
    return found if isinstance(found, tuple) else (found,)


def loss_of(kind, classes: int):
    weighted = isinstance(kind, str) and kind.startswith("weighted")
    return build_loss(kind, torch.rand(classes) + 0.1 if weighted else None)


# --- pretended CUDA ---


@pytest.fixture
def gpu(monkeypatch) -> FakeTensorMode:
    """`with gpu:` torch pretends that there is one, for `model.to("cuda")` and all that follows."""

    if torch.__version__.startswith("2.6."):
        pytest.skip("torch 2.6 asks for a driver even where CUDA is only pretended")

    def numpy(tensor: Tensor) -> np.ndarray:
        if tensor.device.type != "cpu":
            raise TypeError(f"{tensor.device} tensor to numpy: use Tensor.cpu() first")
        return np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch."))

    monkeypatch.setattr(FakeTensor, "numpy", numpy, raising=False)
    monkeypatch.setattr(FakeTensor, "__bool__", lambda _: False, raising=False)
    monkeypatch.setattr(FakeTensor, "__int__", lambda _: 48, raising=False)  # a side to which SAM has resized an image
    for name in ("__enter__", "__exit__"):  # in which nothing can be pretended
        monkeypatch.setattr(torch.inference_mode, name, lambda *_: None)
    for module in (predictor_module, sam_module):
        monkeypatch.setattr(module, "require_finite", lambda *_: None)
    return FakeTensorMode(allow_non_fake_inputs=True)


class Left(nn.Module):
    """Keeps a tensor that is no buffer, or makes one without a device."""

    def __init__(self, kept: bool):
        super().__init__()
        self.layer, self.kept, self.mean = nn.Conv2d(3, 2, 1), kept, torch.zeros(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - (self.mean if self.kept else torch.zeros(3, 1, 1)))


@pytest.mark.parametrize("kept", [True, False])
def test_a_tensor_that_is_left_on_the_cpu_is_found(kept, gpu):
    model = Left(kept)
    with gpu, torch.no_grad():
        model.to("cuda")
        with pytest.raises(RuntimeError, match="cuda:0 and cpu"):
            model(torch.zeros(1, 3, 4, 4, device="cuda"))
        with pytest.raises(TypeError, match="cpu"):
            torch.zeros(1, device="cuda").numpy()


@each_network
def test_networks_compute_where_they_are(name, gpu):
    model = built(name)
    asked = given(model)
    with gpu, torch.no_grad():
        model.to("cuda")
        there = {key: value.to("cuda") for key, value in asked.items()}
        for part in answer(model.train(), there):
            assert (part.device.type, len(part)) == ("cuda", 4)


def test_mask_rcnn_s_pyramid_and_heads_compute_where_they_are(gpu):
    """Which proposals are left depends on numbers: from there on there is nothing to pretend."""
    model = detector()
    with gpu, torch.no_grad():
        model.to("cuda")
        maps = model.backbone(torch.zeros(2, 3, 64, 64, device="cuda"))
        scores, boxes = model.rpn.head(list(maps.values()))
        masks = model.roi_heads.mask_predictor(model.roi_heads.mask_head(torch.zeros(4, 8, 14, 14, device="cuda")))
        assert {part.device.type for part in (*maps.values(), *scores, *boxes, masks)} == {"cuda"}


@each_loss
def test_losses_are_computed_where_the_logits_are(kind, gpu):
    loss, images = loss_of(kind, 5), photos(2)
    with gpu, torch.no_grad():
        x = to_input(images.to("cuda"), torch.ones(2, 3))
        logits, target = torch.cat([x, x[:, :2]], 1), images[:, 0].to("cuda")
        assert loss(logits, target).device.type == "cuda"
        assert loss.parts(logits, target, loss.total(target)).device.type == "cuda"


@pytest.mark.parametrize("name", STRIDES)
def test_a_step_of_prompts_computes_where_the_network_is(name, gpu):
    drawn = sample_prompts(Objects(2).items[1][1][None].numpy(), PromptTask(), np.random.default_rng(0))
    model, images = new(name), photos(1)
    with gpu, torch.no_grad():
        assert step_loss(model.to("cuda"), to_input(images.to("cuda")), drawn, rounds=2).device.type == "cuda"


def ask(predictor) -> None:
    """A click, and two clicks in a box with an earlier mask."""
    predictor.set_image(photo())
    earlier = np.zeros((40, 56), dtype=bool)
    more = {"points": [[30, 20], [2, 2]], "labels": [1, 0], "box": [4, 5, 45, 28], "mask_input": earlier}
    for prompt in ({"points": [[30, 20]], "labels": [1]}, more):
        masks, ious = predictor.predict(**prompt, multimask=True)
        assert (masks.shape, ious.shape) == ((3, 40, 56), (3,))


@pytest.mark.parametrize("kind", [MiniSamPredictor, OneLook])
def test_mini_sam_is_asked_where_it_is(kind, gpu):
    model = new("full")
    with gpu:
        ask(kind(model.to("cuda")))


@pytest.mark.parametrize("kind", ["sam", "sam_hq", "sam2", "edgetam"])
def test_sam_is_asked_where_it_is(kind, tmp_path, gpu):
    model = load_sam_folder(write_tiny_sam(tmp_path, kind))
    halve(model.network.vision_encoder)  # as on a GPU
    with gpu, torch.no_grad():
        ask(SamPredictor(model.to("cuda")))


# --- float16 ---


def near(half: Tensor, full: Tensor, share: float = 1e-2) -> None:
    """Finite, and within a hundredth of the largest number."""
    assert half.isfinite().all()
    assert (half.float() - full).abs().max() <= share * full.abs().max().clamp_min(1)


def alike(half: tuple[Tensor, ...], full: tuple[Tensor, ...]) -> None:
    """What a network answers in two precisions: the numbers that training sees, the mean over all pixels above all."""
    for a, b in zip(half, full, strict=True):
        assert a.isfinite().all()
        assert (a.float() - b).abs().mean() < 0.1 * b.std()  # rounded in every layer
    pixels = full[0][:, 0].shape
    target = torch.randint(0, full[0].shape[1], pixels, generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    near(*(build_loss("ce")(answered[0], target) for answered in (half, full)))


@torch.no_grad()
def settle(model: nn.Module, asked: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """What it answers with these images' statistics: with none, the signals of random weights die or explode."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    answer(model.train(), asked)
    return answer(model.eval(), asked)


@each_network
def test_networks_in_float16_are_near_float32(name):
    model = built(name)
    asked = given(model)
    full = settle(model, asked)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        alike(answer(model, asked), full)


@each_loss
@pytest.mark.parametrize("spread", [3.0, 2e4])  # 65,504 is the largest
def test_losses_of_float16_logits_are_near_float32(kind, spread):
    """Over more pixels than float16 can count."""
    torch.manual_seed(0)
    loss, target = loss_of(kind, 5), torch.randint(0, 5, (2, 300, 300), dtype=torch.uint8)
    half = (spread * torch.randn(2, 5, 300, 300)).clamp(-6e4, 6e4).half()
    values, gradients = [], []
    for logits in (half.requires_grad_(), half.detach().float().requires_grad_()):
        with torch.autocast("cpu", torch.float16):
            values.append(loss(logits, target))
        gradients += torch.autograd.grad(2.0**16 * values[-1], logits)  # as the scaler begins
    assert values[0].dtype == torch.float32
    near(*values)
    near(*gradients)


def test_prompts_in_float16_are_near_float32():
    torch.manual_seed(0)
    maps = Objects(3).items
    model, images = new("full"), to_input(torch.stack([maps[1][0], maps[2][0]]))
    numbered = torch.stack([maps[1][1], maps[2][1]]).numpy()
    losses = []
    for enabled in (True, False):
        drawn = sample_prompts(numbered, PromptTask(), np.random.default_rng(0))
        with torch.autocast("cpu", torch.float16, enabled=enabled):
            losses.append(step_loss(model, images, drawn, rounds=1))
    near(*losses)
    losses[0].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_sam_s_loss_of_float16_logits_is_near_float32():
    torch.manual_seed(0)
    half, target = 20 * torch.randn(2, 256, 256).half(), torch.rand(2, 256, 256)
    values = [sam_loss(logits, torch.rand(2), target, torch.ones_like(target)) for logits in (half, half.float())]
    near(*values)
    assert values[0].dtype == torch.float32


def test_mask_rcnn_in_float16_has_finite_losses_and_near_maps():
    model = detector().train()
    images = [to_input(SETS[1][i][0][None])[0] for i in range(2)]
    targets = [as_target(SETS[1][i][1], torch.device("cpu")) for i in range(2)]
    with torch.autocast("cpu", torch.float16):
        losses, half = model(images, targets), model.backbone(torch.stack(images))
    assert all(loss.isfinite() for loss in losses.values())
    for name, full in model.backbone(torch.stack(images)).items():
        near(half[name], full)
