"""What only a GPU can show (`make gpu`), and what means the same on a CPU, where it runs on that."""

import math
import re
import sys
import zipfile

import gpu
import numpy as np
import pytest
import test_mask_rcnn
import test_prompt_training
import torch
from test_devices import NETWORKS, alike, answer, ask, built, given, near, settle
from tiny_sam import write_tiny_sam
from training_toys import SETS, Stop, TinyNet, assert_same, own_ce, stop_at, tiny_net, tiny_recipe, weights

from labhelpers.data.scenes import draw_scene
from labhelpers.evaluation import costs, evaluate
from labhelpers.models.sam import load_sam_folder
from labhelpers.prompting import SamPredictor, SemanticPromptTask, load_predictor, mask_iou
from labhelpers.training import build_optimizer, checkpoints, train

pytestmark = pytest.mark.gpu
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
needs_gpu = pytest.mark.skipif(not GPU, reason="needs a GPU: make gpu")
each_precision = pytest.mark.parametrize("precision", ["no", "bf16", pytest.param("fp16", marks=needs_gpu)])
ORDER = {"rtol": 1e-3, "atol": 1e-4} if GPU else {}  # a GPU may add in another order each time


def run(folder, model=None, **changes):
    """A few steps of the loop; the model that was trained, and its history."""
    model = model or tiny_net(dropout=0.0)  # whose random numbers differ from one precision to another
    recipe = tiny_recipe(**({"optimizer": "sgd"} | changes))
    return model, train(model, *SETS, recipe, folder)


@each_precision
def test_every_precision_trains_and_is_near_float32(precision, tmp_path):
    (_, full), (model, history) = (run(tmp_path / name, precision=name) for name in ("no", precision))
    assert next(model.parameters()).device.type == DEVICE.type
    assert next(model.parameters()).dtype == torch.float32
    assert history.column("loss")[1] == pytest.approx(full.column("loss")[1], rel=0.05)
    scaler = checkpoints.read(tmp_path / precision, 6, parts=()).info["scaler"]
    assert (scaler is not None) == (precision == "fp16")


@needs_gpu
def test_a_step_whose_gradient_overflows_float16_is_left_out(tmp_path):
    def steep(logits, target):
        return 2e4 * own_ce(logits, target)

    model, before = tiny_net(dropout=0.0, norm=False), weights(tiny_net(dropout=0.0, norm=False))
    changes = {"lr": 1e-6, "precision": "fp16", "loss": steep}
    with pytest.raises(Stop):
        train(model, *SETS, tiny_recipe(optimizer="sgd", **changes), tmp_path, callbacks=[stop_at(1)])
    assert_same(before, {name: tensor.cpu() for name, tensor in weights(model).items()})
    model, history = run(tmp_path, model, **changes)
    assert checkpoints.read(tmp_path, 6, parts=()).info["scaler"]["scale"] < 2**16
    assert all(math.isfinite(row["loss"]) for row in history.rows)
    assert not torch.equal(model.head[1].weight.cpu(), before["head.1.weight"])


def test_images_and_weights_lie_channels_last_on_a_gpu(tmp_path):
    model, seen = tiny_net(dropout=0.0), []
    layout = {"memory_format": torch.channels_last}
    hook = model.register_forward_pre_hook(lambda _, x: seen.append(x[0].is_contiguous(**layout) == GPU))
    run(tmp_path, model, steps=2, eval_every=0)
    hook.remove()
    assert all(seen[:2])
    assert model.encoder[0].weight.is_contiguous(**layout) == GPU


class Hungry(TinyNet):
    """Half a gigabyte of the GPU for each image."""

    def forward(self, x):
        if self.training:
            torch.empty(len(x) * 2**29, dtype=torch.uint8, device=x.device)
        return super().forward(x)


@needs_gpu
def test_a_gpu_that_is_too_small_gets_half_of_the_batch_at_once(tmp_path, capsys):
    plain, _ = run(tmp_path / "plain", tiny_net(dropout=0.0, norm=False))
    torch.manual_seed(0)
    hungry = Hungry(dropout=0.0, norm=False)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 1.5 * 2**30  # for two images, not for four
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(DEVICE).total_memory)
    try:
        run(tmp_path / "hungry", hungry)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert "4 images at once are too many, continuing with 2" in capsys.readouterr().out
    assert checkpoints.read(tmp_path / "hungry", 6, parts=()).info["micro_batch"] == 2
    assert_same(plain, hungry, rtol=1e-3, atol=1e-4)


@each_precision
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_run_ends_as_one_that_was_not(precision, optimizer, tmp_path):
    recipe = tiny_recipe(precision=precision, optimizer=optimizer, lr=1e-3)
    whole, broken = tiny_net(), tiny_net()
    train(whole, *SETS, recipe, tmp_path / "whole")
    with pytest.raises(Stop):
        train(broken, *SETS, recipe, tmp_path / "broken", callbacks=[stop_at(5)])
    train(broken, *SETS, recipe, tmp_path / "broken")
    assert_same(whole, broken, **ORDER)
    infos = [checkpoints.read(tmp_path / name, 6, parts=()).info for name in ("whole", "broken")]
    assert infos[0]["scaler"] == infos[1]["scaler"]


@each_precision
def test_equal_seeds_give_equal_weights(precision, tmp_path):
    """Dropout included, which draws on the device."""
    one, two, other = (run(tmp_path / name, tiny_net(), precision=precision, seed=len(name) // 4)[0]
                       for name in ("one", "two", "other"))  # fmt: skip
    assert_same(one, two, **ORDER)
    with pytest.raises(AssertionError):
        assert_same(one, other, **ORDER)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimizers_are_fused_and_step_as_plain_ones(name):
    models = [tiny_net(dropout=0.0).to(DEVICE) for _ in range(2)]
    fused, plain = (build_optimizer(model, tiny_recipe(optimizer=name, lr=1e-3)) for model in models)
    assert all(group["fused"] for group in fused.param_groups)
    for group in plain.param_groups:
        group["fused"] = False
    for _ in range(3):
        for model, optimizer in zip(models, (fused, plain), strict=True):
            model.eval()(torch.ones(2, 3, 8, 8, device=DEVICE)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same(*models, rtol=1e-4, atol=1e-5)


@each_precision
def test_prompts_and_objects_are_learned(precision, tmp_path):
    """Of each task a step, an evaluation and a checkpoint."""
    prompts, objects = test_prompt_training, test_mask_rcnn
    runs = {
        "prompts": (prompts.mini_sam(), prompts.SETS, prompts.recipe, prompts.TASK),
        "classes": (prompts.mini_sam(3), SETS, prompts.recipe, SemanticPromptTask()),
        "objects": (objects.small(), objects.SETS, objects.recipe, objects.TASK),
    }
    for name, (model, sets, recipe, task) in runs.items():
        history = train(model, *sets, recipe(precision=precision), tmp_path / name, task=task)
        assert all(math.isfinite(row["loss"]) for row in history.rows)
        assert all(tensor.isfinite().all() for tensor in weights(model).values())


@each_precision
def test_scores_are_those_of_a_cpu(precision, tmp_path):
    model, _ = run(tmp_path, steps=30, eval_every=0)
    there = evaluate(model, SETS[1], device=DEVICE, precision=precision).matrix
    here = evaluate(model, SETS[1], device="cpu").matrix
    assert np.abs(there - here).sum() < 0.02 * here.sum()


def test_a_network_has_its_costs():
    found = costs(tiny_net().to(DEVICE), (64, 64), warmup=1, runs=1)
    assert found["inference_ms"] > 0
    assert found["memory_mb"] > 64 * 64 * 8 * 4 / 2**20  # the encoder's map


@needs_gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_answer_as_on_a_cpu(name):
    model = built(name)
    asked = given(model)
    here = settle(model, asked)
    model.to(DEVICE, memory_format=torch.channels_last)
    asked = {key: value.to(DEVICE) for key, value in asked.items()}
    for enabled in (False, True):
        with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=enabled):
            there = answer(model, asked)
        alike(tuple(part.cpu() for part in there), here)


@pytest.mark.parametrize("kind", ["sam", "sam_hq", "sam2", "edgetam"])
def test_sam_encodes_in_float16_on_a_gpu(kind, tmp_path):
    folder = write_tiny_sam(tmp_path, kind)
    there, here = (load_sam_folder(folder, device) for device in (DEVICE, "cpu"))
    assert {p.dtype for p in there.network.vision_encoder.parameters()} == {torch.float16 if GPU else torch.float32}
    assert {p.dtype for p in there.decoder.parameters()} == {torch.float32}
    image = torch.randint(0, 256, (1, 3, 40, 56), dtype=torch.uint8)
    for a, b in zip(there.encode(image).features, here.encode(image).features, strict=True):
        near(a.cpu(), b, 5e-2)
    ask(SamPredictor(there))


def test_mini_sam_marks_the_same_on_a_gpu():
    scene = draw_scene(0, "val", 2, 256)
    there, here = (load_predictor("mini_sam", device) for device in (DEVICE, "cpu"))
    for predictor in (there, here):
        predictor.set_image(scene.image)
    for number in [number for number in np.unique(scene.objects) if 0 < number < 255][:3]:
        y, x = (int(np.median(places)) for places in (scene.objects == number).nonzero())
        masks = [predictor.predict([[x, y]], [1])[0] for predictor in (there, here)]
        assert mask_iou(*masks) > 0.95


# --- `make gpu` itself ---


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_the_page_says_what_was_run_and_what_was_not(tmp_path, monkeypatch, capsys):
    todo = {
        "tests": (python("print('. [100%]\\n== 3 passed, 2 skipped in 1.5s ==')"), 60),
        "mini_sam": (python("print('| Mini-SAM, click | 3 ms |', flush=True); import time; time.sleep(60)"), 3),
        "evaluation": (python("print('loading'); raise RuntimeError('a | b')"), 60),
        "lab 01": (python("print('| a | table |')"), 60),
        "lab 02": (python("print('FAILED in 02_fcn.ipynb, code cell 3 (x)\\nNameError'); raise SystemExit(1)"), 60),
    }
    monkeypatch.setattr(gpu, "BUILD", tmp_path)
    monkeypatch.setattr(gpu, "prepare_environment", lambda: None)
    monkeypatch.setattr(gpu, "parts", lambda quick: todo)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick"])
    assert gpu.main() == 1
    written = re.sub(r"\b\d+ s\b", "N s", (tmp_path / "gpu.md").read_text())
    assert written.startswith(gpu.HEAD + ("**no GPU**" if not GPU else "**"))
    assert written.endswith(
        "| tests | 3 passed, 2 skipped in 1.5s |\n| Mini-SAM, click | 3 ms |\n| mini_sam | **stopped after N s** |\n"
        "| evaluation | **failed**: RuntimeError: a / b |\n| lab 01 | every cell ran, N s |\n"
        "| lab 02 | **failed**: FAILED in 02_fcn.ipynb, code cell 3 (x) |\n"
    )
    assert "FAILED: mini_sam, evaluation, lab 02\n" in capsys.readouterr().out
    monkeypatch.setattr(gpu, "MINUTES", 0)
    assert gpu.main() == 1
    assert (tmp_path / "gpu.md").read_text().count("**not reached**: no time was left") == len(todo)


def test_all_that_is_marked_and_every_lab_is_run_and_a_page_is_there():
    whole, quick = gpu.parts(False), gpu.parts(True)
    assert __file__ in whole["tests"][0]
    assert [*whole] == ["tests", *gpu.MEASURED, *(f"lab 0{number}" for number in range(1, 9))]
    assert [*quick] == ["tests", *gpu.MEASURED, "lab 01"]
    assert gpu.PAGE.read_text() == gpu.page() or gpu.PAGE.read_text().startswith(f"{gpu.HEAD}**")
    assert gpu.lacking() == []


@pytest.mark.skipif(GPU, reason="there is one")
def test_without_a_gpu_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "BUILD", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="no GPU here; QUICK=1"):
        gpu.main()


def wheel(folder, name: str):
    with zipfile.ZipFile(folder / f"{name}-999.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}_here.py", "")
        for part, text in {"METADATA": f"Name: {name}\nVersion: 999.0\n", "WHEEL": "Tag: py3-none-any\n"}.items():
            file.writestr(f"{name}-999.0.dist-info/{part}", text + "Metadata-Version: 2.1\nWheel-Version: 1.0\n")
        file.writestr(f"{name}-999.0.dist-info/RECORD", "")


def test_of_the_wheels_only_what_is_missing_is_installed_and_torch_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PACKAGES", tmp_path / "packages")
    with pytest.raises(SystemExit, match="no wheel in "):
        gpu.install_missing(tmp_path)
    for name in ("torch", "nowhere_else"):
        wheel(tmp_path, name)
    gpu.install_missing(tmp_path)
    assert {path.name for path in gpu.PACKAGES.glob("*.py")} == {"nowhere_else_here.py"}
    (tmp_path / "broken-1.0-py3-none-any.whl").write_text("no zip")
    with pytest.raises(SystemExit, match="pip cannot install from"):
        gpu.install_missing(tmp_path)
