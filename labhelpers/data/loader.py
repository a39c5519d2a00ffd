"""Reading fast and repeatably: a cache in memory, subsets, and an endless training stream that can start anywhere.

The stream is a function of the seed: which images make batch k, and what happens to each, follows from (seed, k) alone.
A run that was interrupted continues with `start_step`, and the number of workers changes nothing but the speed.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence, Sized

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from labhelpers.data.augment import Augmentation, sample_rng
from labhelpers.data.base import SegmentationDataset

_MB = 2**20
Item = tuple[torch.Tensor, torch.Tensor]


class SubsetDataset(SegmentationDataset):
    """Some items of a data set, in the order of `indices`; in all else like the data set itself."""

    def __init__(self, dataset: SegmentationDataset, indices: Sequence[int]):
        self.dataset, self.indices = dataset, list(indices)
        self.name, self.split = dataset.name, dataset.split
        self.class_names, self.num_classes = dataset.class_names, dataset.num_classes
        self.ids = [dataset.ids[i] for i in self.indices]

    def __getitem__(self, index: int) -> Item:
        return self.dataset[self.indices[index]]

    def load_image(self, index: int) -> torch.Tensor:
        return self.dataset.load_image(self.indices[index])

    def load_target(self, index: int) -> torch.Tensor:
        return self.dataset.load_target(self.indices[index])

    @property
    def has_instances(self) -> bool:
        return self.dataset.has_instances

    def instances(self, index: int) -> torch.Tensor:
        return self.dataset.instances(self.indices[index])

    def fingerprint(self) -> str:
        return hashlib.sha256(repr((self.dataset.fingerprint(), self.indices)).encode()).hexdigest()[:16]


class CachedDataset(SubsetDataset):
    """A data set read into memory now, up to `max_mb` MB; what does not fit is read from disk when asked for.

    It is filled in the calling process, so that forked workers share it and do not copy it. 500x375 pixels take 0.7 MB.
    The tensors are handed out as they are: do not change them in place. When the files have changed since,
    `fingerprint` says so with a ValueError.

    Attributes:
        cached_mb: size of what is held, MB (2**20 bytes).
        complete: whether that is the whole set.
    """

    def __init__(self, dataset: SegmentationDataset, max_mb: float = 1024):
        super().__init__(dataset, range(len(dataset)))
        self._fingerprint = dataset.fingerprint()
        self._items: list[Item] = []
        used = 0
        for index in range(len(dataset)):
            image, target = dataset[index]
            used += image.nbytes + target.nbytes
            if used > max_mb * _MB:
                break
            # Stored in the order (H, W, 3), behind the same (3, H, W) tensor: windows are resized three times as fast.
            self._items.append((image.permute(1, 2, 0).contiguous().permute(2, 0, 1), target))
        self.cached_mb = sum(image.nbytes + target.nbytes for image, target in self._items) / _MB
        self.complete = len(self._items) == len(dataset)

    def __getitem__(self, index: int) -> Item:
        index = range(len(self))[index]
        return self._items[index] if index < len(self._items) else self.dataset[index]

    def load_image(self, index: int) -> torch.Tensor:
        return self[index][0] if index < len(self._items) else super().load_image(index)

    def load_target(self, index: int) -> torch.Tensor:
        return self[index][1] if index < len(self._items) else super().load_target(index)

    def fingerprint(self) -> str:
        if self.dataset.fingerprint() != self._fingerprint:
            raise ValueError(
                f"The files of {self.name}/{self.split} have changed since they were read into memory: open the data "
                "set again (run the cell that does)."
            )
        return self._fingerprint


cache = CachedDataset


def subset(dataset: SegmentationDataset, n: int, seed: int = 0) -> SubsetDataset:
    """Choose `n` items at random, in their original order. For one seed a smaller subset lies within a larger one.

    Raises:
        ValueError: n is not in 1..len(dataset).
    """
    if not 1 <= n <= len(dataset):
        raise ValueError(f"subset needs n in 1..{len(dataset)}, the size of {dataset.name}/{dataset.split}, got {n}.")
    order = np.random.default_rng(seed).permutation(len(dataset))
    return SubsetDataset(dataset, sorted(order[:n].tolist()))


def steps_per_epoch(dataset: Sized, batch_size: int) -> int:
    """Batches in one pass: the last, partial batch is dropped, but a set smaller than a batch still makes one batch."""
    return max(1, len(dataset) // batch_size)


def training_loader(
    dataset: SegmentationDataset,
    augmentation: Augmentation,
    batch_size: int,
    *,
    steps: int,
    start_step: int = 0,
    seed: int = 0,
    workers: int = 0,
    sample_weights: Sequence[float] | np.ndarray | None = None,
) -> DataLoader:
    """The batches of steps `start_step` to `steps` - 1 of an endless stream.

    Each epoch is a new permutation of the data set, drawn from (seed, epoch); what is done to an image is drawn from
    (seed, epoch, index). A set of n < `batch_size` images gives batches of n, each of them a whole epoch.

    Args:
        augmentation: with `crop=None` all images must have the same size.
        workers: processes that prepare batches; 0 prepares them in this one. The batches are the same.
        sample_weights: one per image: draws each epoch's images with replacement, in proportion to these weights.

    Returns:
        A loader that yields images uint8 (B, 3, h, w), targets uint8 (B, h, w) (or (B, C, h, w), see `View.target`)
        and colour factors float32 (B, 3), the latter for `to_input`. Making an iterator leaves torch's global random
        state alone.

    Raises:
        ValueError: an empty data set, a bad number, or weights that do not fit the data set.
    """
    if len(dataset) == 0:
        raise ValueError("training_loader got an empty data set: there is nothing to train on.")
    if batch_size < 1 or not 0 <= start_step <= steps:
        raise ValueError(
            f"training_loader needs batch_size >= 1 and 0 <= start_step <= steps, got batch_size={batch_size}, "
            f"start_step={start_step}, steps={steps}."
        )
    weights = None
    if sample_weights is not None:
        weights = np.asarray(sample_weights, dtype=np.float64)
        fits = weights.shape == (len(dataset),) and np.isfinite(weights).all()
        if not fits or weights.min() < 0 or weights.sum() == 0:
            raise ValueError(
                f"sample_weights must be {len(dataset)} finite numbers, one per image, none negative and not all zero; "
                f"got shape {weights.shape}."
            )
        weights = weights / weights.sum()
    return DataLoader(
        _Augmented(dataset, augmentation, seed),
        batch_sampler=_Stream(len(dataset), batch_size, start_step, steps, seed, weights),
        num_workers=workers,  # torch itself limits each to one thread
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        # Without one of its own, an iterator draws from the global generator, and dropout would change on resuming.
        generator=torch.Generator().manual_seed(seed),
    )


class _Stream:
    """Yields one list of (epoch, index, repeat) per batch."""

    drop_last = True  # as a torch BatchSampler has it; accelerate looks at both

    def __init__(self, n: int, batch_size: int, start: int, stop: int, seed: int, probabilities: np.ndarray | None):
        self.batch_size = min(batch_size, n)
        self.n, self.start, self.stop, self.seed, self.probabilities = n, start, stop, seed, probabilities

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        batches, current = self.n // self.batch_size, None
        for step in range(self.start, self.stop):
            epoch, batch = divmod(step, batches)
            if epoch != current:
                current, order = epoch, self._order(epoch)
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def _order(self, epoch: int) -> list[tuple[int, int, int]]:
        # A spawn key keeps these draws apart from those of sample_rng(seed, epoch, 0).
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, epoch), spawn_key=(0,)))
        if self.probabilities is None:
            return [(epoch, index, 0) for index in rng.permutation(self.n).tolist()]
        order: list[tuple[int, int, int]] = []
        seen: Counter[int] = Counter()
        for index in rng.choice(self.n, size=self.n, p=self.probabilities).tolist():
            order.append((epoch, index, seen[index]))  # an image drawn twice is not augmented alike twice
            seen[index] += 1
        return order


class _Augmented(Dataset):
    """Reads (epoch, index, repeat) and applies the view that follows from it."""

    def __init__(self, dataset: SegmentationDataset, augmentation: Augmentation, seed: int):
        self.dataset, self.augmentation, self.seed = dataset, augmentation, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        epoch, index, repeat = key
        image, target = self.dataset[index]
        height, width = target.shape[-2:]
        view = self.augmentation.sample(height, width, sample_rng(self.seed, epoch, index, repeat))
        return view.image(image), view.target(target), torch.from_numpy(view.colour)


def _collate(samples: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    sizes = {tuple(target.shape[-2:]) for _, target, _ in samples}
    if len(sizes) > 1:
        found = ", ".join(f"{width}x{height}" for height, width in sorted(sizes))
        raise ValueError(
            f"crop=None keeps each image's size, but one batch holds images of {found} (width x height): set "
            "Augmentation.crop, or batch_size=1."
        )
    return tuple(torch.utils.data.default_collate(samples))
