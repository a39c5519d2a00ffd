"""Fine-tuning SAM's mask decoder: it learns, all else stays, and what was computed is not computed again."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny_sam import write_tiny_sam
from training_toys import Squares, assert_same, weights

from labhelpers.models.sam import SAM, load_sam_folder
from labhelpers.prompting import SamPredictor, SamRecipe, sam_loss, sam_tuning, tune_sam_decoder
from labhelpers.prompting.sam_tuning import EmbeddingCache
from labhelpers.training import checkpoints

RECIPE = SamRecipe(steps=6, images=6, batch_size=2, lr=3e-3, smallest=20, save_every=2)
LONGER = dataclasses.replace(RECIPE, steps=20)


class Objects(Squares):
    """Each square is one object."""

    def instances(self, index: int) -> torch.Tensor:
        return self.load_target(index)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write_tiny_sam(tmp_path_factory.mktemp("sam") / kind, kind) for kind in ("sam", "sam_hq", "sam2")}


@pytest.fixture
def predictor(folders):
    return SamPredictor(load_sam_folder(folders["sam"]))


@pytest.fixture
def encoded(monkeypatch):
    """One entry for each image that an encoder sees."""
    calls, encode = [], SAM.encode
    monkeypatch.setattr(SAM, "encode", lambda self, image: calls.append(1) or encode(self, image))
    return calls


@pytest.mark.parametrize("kind", ["sam", "sam_hq", "sam2"])
def test_the_loss_falls_and_only_the_decoder_changes(folders, kind):
    predictor, data = SamPredictor(load_sam_folder(folders[kind])), Objects(6)
    before = weights(predictor.model)
    run = tune_sam_decoder(predictor, data, LONGER)
    assert not run.loaded
    assert len(run.losses) == 20
    assert np.mean(run.losses[-5:]) < 0.8 * np.mean(run.losses[:5])
    assert_same(before, predictor.model)  # the zero-shot model is there for the comparison
    tuned = weights(run.predictor.model)
    changed = {name for name in tuned if not torch.equal(tuned[name], before[name])}
    assert changed
    assert all(name.startswith("network.mask_decoder.") for name in changed)
    assert not any(p.requires_grad for p in run.predictor.model.parameters())
    assert not run.predictor.model.training
    assert run.predictor.name == "sam_finetuned"


@pytest.mark.parametrize("kind", ["sam", "sam2"])
def test_boxes_and_targets_are_of_the_same_object(folders, kind):
    model, data = load_sam_folder(folders[kind]), Objects(2, size=64)
    objects = torch.zeros(48, 64, dtype=torch.uint8)
    objects[4:20, 6:22], objects[24:44, 30:60], objects[0:2] = 1, 2, 255
    embedding = model.encode(data.load_image(0)[None, :, :48])
    rng = np.random.default_rng(0)
    boxes, target, weight = sam_tuning._draw(model, embedding, objects.numpy(), RECIPE, rng)
    assert boxes.shape == (2, 4)
    assert target.shape == weight.shape == (2, model.low_side, model.low_side)
    masks = model.enlarge(target[:, None] - 0.5, embedding)[:, 0] > 0
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = mask.any(0).nonzero(), mask.any(1).nonzero()
        tight = torch.tensor([columns.min(), rows.min(), columns.max(), rows.max()])
        assert (box - tight).abs().max() < 7  # the jitter, and the coarse grid
    counts = model.enlarge(weight[:1, None], embedding)[0, 0]
    assert counts[6:-1].min() > 0.99
    assert counts[0].max() < 0.5
    assert model.shrink(torch.ones(1, 48, 64), embedding).mean() < (0.8 if kind == "sam" else 1.01)  # less the padding


def test_a_second_call_loads_the_same_masks_without_encoding(predictor, folders, encoded, capsys):
    first = tune_sam_decoder(predictor, Objects(6), RECIPE, name="SAM (fine-tuned)")
    assert len(encoded) == 6
    assert "SAM (fine-tuned): tuned (now, " in capsys.readouterr().out
    again = tune_sam_decoder(SamPredictor(load_sam_folder(folders["sam"])), Objects(6), RECIPE, name="SAM (fine-tuned)")
    assert len(encoded) == 6
    assert again.loaded
    assert again.losses == first.losses
    assert again.minutes == first.minutes
    assert "SAM (fine-tuned): loaded (tuned 20" in capsys.readouterr().out
    image = Objects(1).load_image(0).permute(1, 2, 0).numpy()
    answers = []
    for run in (first, again):
        run.predictor.set_image(image)
        answers.append(run.predictor.predict(box=[4, 4, 20, 20]))
    assert np.array_equal(answers[0][0], answers[1][0])
    assert answers[0][1] == answers[1][1]
    assert not list(first.folder.glob("*optimizer*"))
    saved = checkpoints.read(first.folder, 6, parts=("model",)).parts["model"]
    assert saved.keys() == predictor.model.decoder.state_dict().keys()


def test_another_recipe_is_another_run_on_the_same_embeddings(predictor, encoded):
    short = dataclasses.replace(RECIPE, steps=3)
    changes = ({}, {"lr": 1e-3}, {"seed": 1}, {"steps": 2}, {"box_jitter": 0.1})
    runs = [tune_sam_decoder(predictor, Objects(6), dataclasses.replace(short, **change)) for change in changes]
    assert not any(run.loaded for run in runs)
    assert len({run.key for run in runs}) == len(runs)
    assert len(encoded) == 6
    assert tune_sam_decoder(predictor, Objects(6), dataclasses.replace(short, save_every=1)).loaded
    assert not tune_sam_decoder(predictor, Objects(5), short).loaded


def test_an_interrupted_run_ends_as_one_that_was_not(predictor, monkeypatch, tmp_path):
    whole = tune_sam_decoder(predictor, Objects(6), RECIPE)
    monkeypatch.setenv("LAB_CHECKPOINTS", str(tmp_path / "elsewhere"))
    step = sam_tuning._step

    def stop(model, examples, recipe, number):
        if number == 3:
            raise KeyboardInterrupt
        return step(model, examples, recipe, number)

    monkeypatch.setattr(sam_tuning, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        tune_sam_decoder(predictor, Objects(6), RECIPE)
    steps = []
    monkeypatch.setattr(sam_tuning, "_step", lambda *a: steps.append(a[-1]) or step(*a))
    resumed = tune_sam_decoder(predictor, Objects(6), RECIPE)
    assert steps == list(range(2, 6))
    assert resumed.losses == whole.losses
    assert_same(resumed.predictor.model, whole.predictor.model)


def test_a_damaged_decoder_is_tuned_again(predictor):
    run = tune_sam_decoder(predictor, Objects(4), RECIPE)
    file = run.folder / "step-00000006.model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="is damaged"):
        again = tune_sam_decoder(predictor, Objects(4), RECIPE)
    assert not again.loaded
    assert again.losses == run.losses


def damage_header(data: bytes) -> bytes:
    return data[:4]


def flip_a_bit(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize("damage", [damage_header, flip_a_bit])
def test_a_damaged_embedding_is_computed_again(predictor, encoded, tmp_path, capsys, damage):
    image, cache = Objects(1).load_image(0), EmbeddingCache(predictor.model, tmp_path)
    first = cache.embed(image)
    file = next(tmp_path.glob("*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    again = cache.embed(image)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{file} is damaged (")
    assert printed.endswith("): the embedding is computed again.\n")
    assert len(encoded) == 2
    assert file.read_bytes() == whole
    kept = cache.embed(image)
    assert len(encoded) == 2
    for one in (first, again, kept):
        assert one.size == (40, 40)
        assert one.seen == (64, 64)
        assert [part.dtype for part in one.features] == [torch.float16]
        assert torch.equal(one.features[0], first.features[0])


def test_embeddings_are_keyed_by_image_and_weights(predictor, tmp_path, encoded):
    other = SamPredictor(load_sam_folder(write_tiny_sam(tmp_path / "other", seed=1)))
    for model in (predictor.model, other.model, predictor.model):
        for index in (0, 1):
            EmbeddingCache(model, tmp_path / "cache").embed(Objects(2).load_image(index))
    assert len(encoded) == 4
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_images_without_objects_are_passed_over_and_none_at_all_is_an_error(predictor, encoded):
    data = Objects(3)
    data.items[1] = (data.items[1][0], torch.zeros_like(data.items[1][1]))
    tune_sam_decoder(predictor, data, SamRecipe(steps=1))
    assert len(encoded) == 2
    with pytest.raises(ValueError, match="no image of squares/train shows an object of at least smallest=500 pixels"):
        tune_sam_decoder(predictor, data, SamRecipe(steps=1, smallest=500))
    with pytest.raises(FileNotFoundError, match="has no instance masks"):
        tune_sam_decoder(predictor, Squares(2), SamRecipe(steps=1))


def test_a_loss_that_is_no_number_is_said(predictor):
    with pytest.raises(RuntimeError, match=r"the loss is \w+ at step \d+: lower lr=1e\+30"):
        tune_sam_decoder(predictor, Objects(2), SamRecipe(steps=9, lr=1e30))


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"images": 1.5}, {"lr": 0}, {"lr": math.nan}, {"box_jitter": -1}, {"weight_decay": -1}]
)
def test_a_recipe_says_which_number_is_wrong(change):
    with pytest.raises(ValueError, match=rf"SamRecipe\({next(iter(change))}="):
        SamRecipe(**change)


# --- the loss --------------------------------------------------------------------------------------------------------


def test_the_loss_of_certain_masks_is_known():
    target = torch.zeros(2, 8, 8)
    target[:, :4] = 1
    weight = torch.ones(2, 8, 8)
    right, wrong = 50 * (2 * target - 1), -50 * (2 * target - 1)
    assert sam_loss(right, torch.ones(2), target, weight) < 1e-5
    # Focal: half the pixels are object, each costs 50 * alpha. Dice: no overlap, areas 32 and 32. Predicted IoU: 1 off.
    expected = 20 * 50 * (0.25 + 0.75) / 2 + (1 - 1 / 65) + 1
    assert math.isclose(sam_loss(wrong, torch.ones(2), target, weight), expected, rel_tol=1e-4)
    assert math.isclose(sam_loss(wrong, torch.zeros(2), target, weight), expected - 1, rel_tol=1e-4)


def test_what_does_not_count_has_no_gradient():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 8, 8, requires_grad=True), (torch.rand(2, 8, 8) > 0.5).float()
    weight = torch.ones(2, 8, 8)
    weight[:, :, 5:] = 0
    sam_loss(logits, torch.zeros(2), target, weight).backward()
    assert (logits.grad[:, :, 5:] == 0).all()
    assert (logits.grad[:, :, :5] != 0).all()
