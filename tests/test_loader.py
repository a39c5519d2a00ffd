"""Cache, subset and the training stream: the same batches whatever the workers and wherever it starts."""

import pytest
import torch
from training_toys import InMemory

from labhelpers.data.augment import Augmentation
from labhelpers.data.loader import cache, steps_per_epoch, subset, training_loader

AUGMENTATION = Augmentation(crop=16, rotation=5, brightness=0.2)
PLAIN = Augmentation(crop=None, scale=(1, 1), flip=False)


class Squares(InMemory):
    """The label of every pixel is the picture's number, so that a batch tells what it holds."""

    def __init__(self, n=10, size=None):
        super().__init__("squares", "train", [f"square{i}" for i in range(n)], [self._draw(i, size) for i in range(n)])
        self.reads = []

    @staticmethod
    def _draw(i, size):
        height, width = size or (30 + i, 40 - i)
        rng = torch.Generator().manual_seed(i)
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=rng)
        return image, torch.full((height, width), i, dtype=torch.uint8)

    def __getitem__(self, index):
        self.reads.append(index)
        return self.items[index]

    def instances(self, index):
        return self[index][1] + 100


def batches(dataset=None, batch_size=4, *, augmentation=AUGMENTATION, steps=7, **options):
    dataset = Squares() if dataset is None else dataset
    return list(training_loader(dataset, augmentation, batch_size, steps=steps, **options))


def numbers(stream):
    """Which pictures each batch holds."""
    return [[int(t[t != 255].max()) for t in targets] for _, targets, _ in stream]


def assert_same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_a_batch_is_uint8_images_targets_and_colour():
    batch = batches()[0]
    assert [part.shape for part in batch] == [(4, 3, 16, 16), (4, 16, 16), (4, 3)]
    assert [part.dtype for part in batch] == [torch.uint8, torch.uint8, torch.float32]
    assert (batch[2][:, 0] != 1).all()
    assert (batch[2][:, 1:] == 1).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_gives_the_batches_of_the_uninterrupted_stream(workers):
    whole = batches(seed=5)
    assert numbers(whole) != numbers(batches(seed=2))
    before = torch.get_rng_state()
    for start in (3, 7):
        assert_same(batches(seed=5, start_step=start, workers=workers), whole[start:])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_epoch_is_a_permutation_and_drops_the_last_partial_batch():
    stream = numbers(batches(steps=6))  # 10 images in batches of 4: two batches an epoch
    epochs = [sum(stream[i : i + 2], []) for i in (0, 2, 4)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert set(sum(epochs, [])) == set(range(10))  # what one epoch drops, others see


def test_an_image_is_augmented_anew_each_time():
    first, second = batches(Squares(1), batch_size=1, steps=2)
    assert not torch.equal(first[0], second[0])
    images, _, _ = batches(steps=1, sample_weights=[1] + [0] * 9)[0]  # one image four times in an epoch
    assert len(images.flatten(1).unique(dim=0)) == 4


def test_fewer_images_than_a_batch_make_smaller_batches():
    stream = batches(Squares(3), batch_size=8, steps=4)
    assert all(sorted(batch) == [0, 1, 2] for batch in numbers(stream))
    assert steps_per_epoch(Squares(3), 8) == 1
    assert steps_per_epoch(Squares(10), 4) == 2


def test_sample_weights_draw_in_proportion_and_remain_stateless():
    weights = [0] * 7 + [1, 1, 6]
    stream = batches(steps=100, augmentation=Augmentation(crop=4), sample_weights=weights)
    drawn = torch.tensor(numbers(stream)).flatten().bincount(minlength=10)
    assert drawn[:7].sum() == 0
    assert (drawn[7:] / drawn.sum() - torch.tensor([1, 1, 6]) / 8).abs().max() < 0.08
    assert_same(batches(sample_weights=weights, start_step=4, workers=2), batches(sample_weights=weights)[4:])


class ThreadCounter(Squares):
    def __getitem__(self, index):
        return torch.full((3, 4, 4), torch.get_num_threads(), dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8)


def test_workers_use_one_thread_each():
    images, _, _ = batches(ThreadCounter(), steps=1, workers=1, augmentation=PLAIN)[0]
    assert (images == 1).all()


def test_crop_none_keeps_the_image_and_refuses_different_sizes():
    dataset = Squares(4, size=(20, 30))
    images, targets, _ = batches(dataset, augmentation=PLAIN, steps=1)[0]
    for image, target in zip(images, targets, strict=True):
        assert torch.equal(image, dataset[int(target[0, 0])][0])
    with pytest.raises(ValueError, match="crop=None.*40x30"):
        batches(Squares(2), augmentation=PLAIN, batch_size=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": Squares(0)}, "empty data set"),
        ({"start_step": 9}, "start_step=9"),
        ({"batch_size": 0}, "batch_size=0"),
        *(
            ({"sample_weights": weights}, "sample_weights must be 10 finite")
            for weights in ([1] * 9, [0] * 10, [-1] + [1] * 9, [float("nan")] * 10)
        ),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        batches(**arguments)


def assert_forwards(wrapped, dataset, indices):
    for name in ("name", "split", "num_classes", "class_names", "ignore_index"):
        assert getattr(wrapped, name) == getattr(dataset, name)
    assert wrapped.ids == [dataset.ids[i] for i in indices]
    assert len(wrapped) == len(indices)
    for i, j in enumerate(indices):
        for method in ("__getitem__", "load_image", "load_target", "instances"):
            found, expected = getattr(wrapped, method)(i), getattr(dataset, method)(j)
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_complete_cache_reads_each_image_once():
    dataset = Squares()
    cached = cache(dataset)
    assert cached.complete
    assert dataset.reads == list(range(10))
    assert_forwards(cached, Squares(), range(10))
    assert torch.equal(cached[-1][0], cached[9][0])
    assert dataset.reads == [*range(10), *range(10)]  # only instances are read again: they are not cached
    assert cached.cached_mb == pytest.approx(sum(4 * (30 + i) * (40 - i) for i in range(10)) / 2**20)
    assert cached.fingerprint() == dataset.fingerprint()
    with pytest.raises(IndexError):
        cached[10]


def test_a_bounded_cache_holds_what_fits_and_reads_the_rest():
    dataset = Squares(10, size=(64, 64))  # 16 kB each
    cached = cache(dataset, max_mb=0.05)
    assert not cached.complete
    assert cached.cached_mb == 3 * 16 / 1024
    dataset.reads.clear()
    assert_forwards(cached, Squares(10, size=(64, 64)), range(10))
    assert {i for i in dataset.reads if dataset.reads.count(i) > 1} == set(range(3, 10))
    assert_same(batches(cached), batches(Squares(10, size=(64, 64))))


def test_subset_is_seeded_ordered_and_nested():
    dataset = Squares(50, size=(4, 4))
    small, large = subset(dataset, 5, seed=3), subset(dataset, 20, seed=3)
    assert_forwards(small, dataset, small.indices)
    assert small.indices == sorted(small.indices) == subset(dataset, 5, seed=3).indices
    assert set(small.indices) < set(large.indices)
    assert small.indices != subset(dataset, 5, seed=4).indices
    assert len({small.fingerprint(), large.fingerprint(), dataset.fingerprint()}) == 3
    assert_forwards(cache(small), dataset, small.indices)
    for n in (0, 51):
        with pytest.raises(ValueError, match=r"1\.\.50.*squares/train"):
            subset(dataset, n)
