"""Fine-tuning SAM's mask decoder on boxes, its encoders frozen: 4 of 94 million parameters of SAM ViT-B.

The heavy part runs once for each image, before the first step. What is left of a step is the decoder, so that a few
hundred steps take minutes on a GPU.
"""

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from labhelpers import config
from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset
from labhelpers.data.voc import visible_objects
from labhelpers.files import write_atomic
from labhelpers.models.sam import SAM, SamEmbedding
from labhelpers.prompting.sam import SamPredictor
from labhelpers.prompting.sampling import box_from_mask
from labhelpers.prompting.task import true_iou
from labhelpers.training import checkpoints
from labhelpers.training.recipe import identity, require_count, require_number
from labhelpers.training.run import runs_folder, weights_hash
from labhelpers.training.task import alone
from labhelpers.training.tracking import Progress

FOCAL_WEIGHT, DICE_WEIGHT, IOU_WEIGHT = 20.0, 1.0, 1.0
ALPHA, GAMMA = 0.25, 2.0


def sam_loss(logits: Tensor, predicted_iou: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """20 x focal + Dice + squared error of the predicted IoU, a mean over P masks: the loss that SAM was trained with.

    Kirillov et al., Segment Anything, ICCV 2023, appendix A, with the weights given there. Focal: Lin et al. (2017),
    equation 5, alpha 0.25 for the object and 0.75 beside it, gamma 2, a mean over the pixels that count. Dice:
    Milletari et al., V-Net (2016), with plain sums and 1 added above and below the fraction bar.

    Args:
        logits: float (P, h, w), one mask for each prompt.
        predicted_iou: float (P,).
        target: float (P, h, w), the share of each position that the object covers, 0..1.
        weight: float (P, h, w), how much each position counts, 0 for void and padding.
    """
    p = logits.sigmoid()
    nll = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    wrong = p + target - 2 * p * target  # 1 - p_t
    alpha = ALPHA * target + (1 - ALPHA) * (1 - target)
    focal = (weight * alpha * wrong**GAMMA * nll).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1)
    overlap, areas = (weight * p * target).sum((1, 2)), (weight * (p + target)).sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (areas + 1)
    iou_error = (predicted_iou - true_iou(logits[:, None], target, weight)[:, 0]) ** 2
    return (FOCAL_WEIGHT * focal + DICE_WEIGHT * dice + IOU_WEIGHT * iou_error).mean()


@dataclass(frozen=True)
class SamRecipe:
    """How the decoder is tuned."""

    steps: int = 200
    images: int = 100  # of the training set, evenly spread; each is encoded once
    batch_size: int = 4  # images a step
    prompts: int = 4  # most boxes an image
    lr: float = 1e-4  # a tenth of what SAM was trained with: the decoder is good already
    weight_decay: float = 1e-2
    box_jitter: float = 0.05  # of each edge, standard deviation as a share of the box's side
    smallest: int = 100  # pixels: smaller objects are not asked for
    seed: int = 0  # of the order of images, and of objects and boxes
    save_every: int = 50  # steps between checkpoints

    def __post_init__(self) -> None:
        for name in ("steps", "images", "batch_size", "prompts", "smallest", "save_every"):
            require_count(self, name)
        require_number(self, "lr", above_zero=True)
        for name in ("weight_decay", "box_jitter"):
            require_number(self, name)


@dataclass(frozen=True)
class TunedSam:
    """A SAM with a tuned decoder, whether it was tuned just now or earlier."""

    predictor: SamPredictor  # shares encoder and embeddings with the one it was made from
    losses: list[float] = field(repr=False)  # of every step
    loaded: bool  # True: nothing was tuned in this call
    minutes: float  # of the tuning, encoding included, interruptions left out
    key: str  # hash of weights, data and recipe
    folder: Path  # with the checkpoints: of the decoder's weights alone


def tune_sam_decoder(
    predictor: SamPredictor,
    train_set: SegmentationDataset,
    recipe: SamRecipe | None = None,
    name: str = "sam_finetuned",
    cache: Path | None = None,
) -> TunedSam:
    """Tunes a copy of the mask decoder, continues an interrupted tuning, or loads a finished one; says which.

    Boxes only: the decoder draws its one mask for prompts that leave nothing open. What it says to single clicks
    changes, too, for the better or the worse. The predictor that is given stays as it is.

    Args:
        train_set: with `instances`, one object for each number.
        name: of the tuned predictor, and of the folder `checkpoints/<name>/<key>`.
        cache: folder of the image embeddings; by default `checkpoints/sam_embeddings`.

    Raises:
        FileNotFoundError: the data set has no instances.
        ValueError: none of its images shows an object that is large enough; or the name is none for a folder.
        RuntimeError: the loss is not finite.
    """
    recipe = recipe or SamRecipe()
    tuned = predictor.with_own_decoder(name)
    network, numbers = predictor.model.network, identity(recipe, without=("save_every",))  # which changes no result
    facts = [type(network).__name__, weights_hash(network), train_set.fingerprint(), numbers]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:10]
    folder = runs_folder(name) / key

    with alone(folder):
        last = checkpoints.latest(folder, parts=("model",))
        loaded = last is not None and last.step >= recipe.steps
        if last is None or not loaded:
            _tune(tuned.model, train_set, recipe, name, folder, cache or config.checkpoints_root() / "sam_embeddings")
            last = checkpoints.read(folder, recipe.steps, parts=())
        else:
            checkpoints.load_model(tuned.model.decoder, last.parts["model"], folder)
    losses, minutes = last.info["losses"], last.info["seconds"] / 60
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(last.info["saved_at"]))
    tenth = max(1, len(losses) // 10)
    print(
        f"{name}: {f'loaded (tuned {when}' if loaded else 'tuned (now'}, {minutes:.1f} min, key {key}): loss "
        f"{np.mean(losses[:tenth]):.3f} -> {np.mean(losses[-tenth:]):.3f} in {recipe.steps} steps"
    )
    return TunedSam(tuned, losses, loaded, minutes, key, folder)


def _tune(model: SAM, train_set: SegmentationDataset, recipe: SamRecipe, name: str, folder: Path, cache: Path) -> None:
    """From the last checkpoint to the last step, with a checkpoint there."""
    decoder = model.decoder.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    found = checkpoints.latest(folder)
    done, losses, earlier = 0, [], 0.0
    if found is not None:
        done, losses, earlier = found.step, found.info["losses"], found.info["seconds"]
        checkpoints.load_model(decoder, found.parts["model"], folder)
        checkpoints.load_optimizer(optimizer, found.parts["optimizer"])
    start = time.perf_counter()
    examples = _encode(model, train_set, recipe, cache)
    with Progress(name, done, recipe.steps, recipe.batch_size) as progress:
        for step in range(done, recipe.steps):
            loss = _step(model, examples, recipe, step)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss)
            progress.update(loss=loss)
            if step + 1 == recipe.steps or (step + 1) % recipe.save_every == 0:
                parts = {"model": decoder.state_dict(), "optimizer": checkpoints.optimizer_tensors(optimizer)}
                seconds = earlier + time.perf_counter() - start
                info = {"best_step": step + 1, "losses": losses, "seconds": seconds, "saved_at": time.time()}
                checkpoints.save(folder, step + 1, parts, info)
    checkpoints.discard_optimizer(folder)
    decoder.requires_grad_(False).eval()


def _encode(
    model: SAM, train_set: SegmentationDataset, recipe: SamRecipe, cache: Path
) -> list[tuple[SamEmbedding, np.ndarray]]:
    """Embeddings and object maps of the images with objects, among those evenly spread over the set."""
    embeddings, examples = EmbeddingCache(model, cache), []
    for index in np.unique(np.linspace(0, len(train_set) - 1, min(recipe.images, len(train_set))).round().astype(int)):
        objects = train_set.instances(int(index)).numpy()
        if visible_objects(objects, recipe.smallest):
            examples.append((embeddings.embed(train_set.load_image(int(index))), objects))
    if not examples:
        raise ValueError(
            f"no image of {train_set.name}/{train_set.split} shows an object of at least smallest={recipe.smallest} "
            "pixels: lower smallest, or give another set"
        )
    return examples


def _step(model: SAM, examples: list[tuple[SamEmbedding, np.ndarray]], recipe: SamRecipe, step: int) -> float:
    """Gradients of one batch, image by image; returns its loss. What is drawn depends on seed and step only."""
    rng = np.random.default_rng([recipe.seed, step])
    total = 0.0
    for number in rng.choice(len(examples), recipe.batch_size, replace=len(examples) < recipe.batch_size):
        half, objects = examples[number]
        features = tuple(part.to(model.device, torch.float32) for part in half.features)
        embedding = SamEmbedding(features, half.size, half.seen)
        boxes, target, weight = _draw(model, embedding, objects, recipe, rng)
        logits, ious = model.decode(embedding, boxes=boxes, multimask=False)
        loss = sam_loss(logits[:, 0], ious[:, 0], target, weight) / recipe.batch_size
        if not loss.isfinite():
            raise RuntimeError(f"the loss is {loss.item()} at step {step + 1}: lower lr={recipe.lr}")
        loss.backward()
        total += loss.item()
    return total


def _draw(
    model: SAM, embedding: SamEmbedding, objects: np.ndarray, recipe: SamRecipe, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (P, 4) of some of the objects; targets and weights (P, h, w) at the size of the decoder's logits."""
    numbers = rng.permutation(visible_objects(objects, recipe.smallest))[: recipe.prompts]
    masks = objects == numbers[:, None, None]
    boxes = np.stack([box_from_mask(mask, recipe.box_jitter, rng) for mask in masks])
    weight = model.shrink(torch.from_numpy(objects != IGNORE_INDEX)[None], embedding)
    return torch.from_numpy(boxes), model.shrink(torch.from_numpy(masks), embedding), weight.expand(len(masks), -1, -1)


class EmbeddingCache:
    """Gives the embedding of an image, from a file if there is one: encoding takes seconds an image on a CPU.

    It is rounded to float16 either way. A file is named after the encoder's weights and the image's content, and holds
    the hash of its own values: a damaged one is said to be so, computed again and replaced.

    Args:
        folder: where the files are; it is made. SAM's take 2 MB an image.
    """

    def __init__(self, model: SAM, folder: Path):
        self.model, self.folder = model, folder
        folder.mkdir(parents=True, exist_ok=True)
        encoder: Any = model.network.vision_encoder
        described = f"{type(encoder).__name__} {encoder.dtype} {model.side} {weights_hash(encoder)}"
        self._encoder = hashlib.sha256(described.encode()).hexdigest()[:16]

    def embed(self, image: Tensor) -> SamEmbedding:
        """uint8 (3, H, W) -> the embedding, in float16 on the CPU."""
        from safetensors.torch import save

        content = hashlib.sha256(f"{tuple(image.shape)}".encode() + image.numpy().tobytes()).hexdigest()[:32]
        path = self.folder / f"{self._encoder}-{content}.safetensors"
        if path.exists():
            try:
                return _read(path)
            except ValueError as error:
                print(f"{error}: the embedding is computed again.")
        full = self.model.encode(image[None])
        embedding = SamEmbedding(tuple(_half(part) for part in full.features), full.size, full.seen)
        tensors = {f"features.{i}": part for i, part in enumerate(embedding.features)}
        tensors["sizes"] = torch.tensor([embedding.size, embedding.seen])
        write_atomic(path, save(tensors, {"sha256": _hash(tensors)}))
        return embedding


def _half(tensor: Tensor) -> Tensor:
    tensor = tensor.cpu().contiguous()
    return tensor.half() if tensor.abs().max() < torch.finfo(torch.float16).max else tensor


def _read(path: Path) -> SamEmbedding:
    """Raises ValueError for a file that is not as it was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tensors, written = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        if (written or {}).get("sha256") != _hash(tensors):
            raise ValueError("its values are not those whose hash it holds")
    except (SafetensorError, ValueError, KeyError, TypeError) as error:  # the last two: numbers of an unknown kind
        raise ValueError(f"{path} is damaged ({error})") from error
    size, seen = (tuple(row) for row in tensors.pop("sizes").tolist())
    return SamEmbedding(tuple(tensors[f"features.{i}"] for i in range(len(tensors))), size, seen)


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
