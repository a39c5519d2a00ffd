"""Fine-tuning SAM's mask decoder on boxes, its encoders frozen: 4 of 94 million parameters of SAM ViT-B.

The heavy part runs once for each image, before the first step. What is left of a step is the decoder, so that a few
hundred steps take minutes on a GPU.
"""

import dataclasses
import hashlib
import json
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labhelpers import config
from labhelpers.data.base import IGNORE_INDEX, SegmentationDataset
from labhelpers.data.voc import visible_objects
from labhelpers.models.sam import SAM, SamEmbedding
from labhelpers.prompting import SamPredictor
from labhelpers.prompting.sampling import box_from_mask
from labhelpers.training import checkpoints
from labhelpers.training.run import sketch
from labhelpers.training.sam_cache import EmbeddingCache, on_device
from labhelpers.training.sam_loss import sam_loss
from labhelpers.training.tracking import Progress

__all__ = ["SamRecipe", "TunedSam", "tune_sam_decoder"]


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
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"SamRecipe({name}={value!r}): must be a whole number >= 1")
        for name, least in (("lr", "> 0"), ("weight_decay", ">= 0"), ("box_jitter", ">= 0")):
            value = getattr(self, name)
            if not (value >= 0 and (value > 0 or least == ">= 0")):
                raise ValueError(f"SamRecipe({name}={value!r}): must be a number {least}")


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
        train_set: with ``instances``, one object for each number.
        name: of the tuned predictor, and of the folder ``checkpoints/<name>/<key>``.
        cache: folder of the image embeddings; by default ``checkpoints/sam_embeddings``.

    Raises:
        FileNotFoundError: the data set has no instances. ValueError: none of its images shows an object that is large
            enough. RuntimeError: the loss is not finite.
    """
    recipe = recipe or SamRecipe()
    tuned = predictor.with_own_decoder(name)
    decoder = tuned.model.decoder
    key = _key(predictor.model, train_set, recipe)
    folder = config.checkpoints_root() / re.sub(r"[^\w.-]+", "-", name) / key

    last = checkpoints.latest(folder, parts=("model",))
    loaded = last is not None and last.step >= recipe.steps
    if loaded:
        checkpoints.load_model(decoder, last.parts["model"], folder)
    else:
        _tune(tuned.model, train_set, recipe, name, folder, cache or config.checkpoints_root() / "sam_embeddings")
        last = checkpoints.read(folder, recipe.steps, parts=())
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
        embedding, objects = examples[number]
        embedding = on_device(embedding, model.device)
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


def _key(model: SAM, train_set: SegmentationDataset, recipe: SamRecipe) -> str:
    numbers = dataclasses.asdict(recipe)
    del numbers["save_every"]  # has no influence on the result
    facts = [type(model.network).__name__, sketch(model.network), train_set.fingerprint(), numbers]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:10]
