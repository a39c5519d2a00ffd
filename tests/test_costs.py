"""What a model costs: counted by hand for small networks."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_evaluator import Pictures
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from labhelpers.evaluation import ResultsTable, costs, count_flops, count_parameters, evaluate
from labhelpers.evaluation.costs import inference_memory_mb, peak_memory_mb, time_inference
from labhelpers.models import build
from labhelpers.prompting import load_predictor, prompt_costs


def test_a_multiplication_with_its_addition_is_two_operations():
    conv = nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False)
    assert count_flops(conv, (16, 20)) == 2 * 3 * 8 * 9 * (8 * 10)
    linear = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    assert count_flops(linear, (16, 20)) == 2 * 3 * 5
    up = nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False)
    assert count_flops(up, (6, 5)) == 2 * 3 * 4 * 4 * (6 * 5)


def test_operations_grow_with_the_area_and_the_model_stays_as_it_was():
    model = build("unet", num_classes=3, base_channels=4).train()
    before = copy.deepcopy(model.state_dict())
    assert count_flops(model, (128, 64)) == 4 * count_flops(model, (64, 32))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_costs_go_into_a_row(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "smoke")
    model, calls = nn.Conv2d(3, 2, 1), []
    model.register_forward_hook(lambda module, given, out: calls.append(tuple(given[0].shape)))
    assert time_inference(model, (16, 24), warmup=1, runs=4) > 0
    assert calls == [(1, 3, 16, 24)] * 5
    found = costs(model, (16, 24), warmup=1, runs=2)
    assert set(calls) == {(1, 3, 16, 24)}
    assert found["parameters"] == count_parameters(model) == 8
    assert count_parameters(nn.BatchNorm2d(6)) == 12  # not the statistics
    assert found["flops"] == 2 * 3 * 2 * 16 * 24
    assert found["inference_ms"] > 0
    assert found["memory_mb"] > 2 * 16 * 24 * 4 / 2**20
    assert found["cost_size"] == "24 x 16"  # width x height, as pictures are described

    table, evaluation = ResultsTable(tmp_path / "results.json"), evaluate(nn.Conv2d(3, 3, 1), Pictures([(16, 24)]))
    table.add("a", evaluation, **found)
    (row,) = ResultsTable(table.path).rows
    assert {name: getattr(row, name) for name in found} == found
    assert "Inference and memory: one image of 24 x 16 pixels." in table.to_markdown()
    table.add("b", evaluation, **{**found, "cost_size": "9 x 9"})
    assert "one image of 24 x 16 or 9 x 9 pixels." in table.to_markdown()


def test_a_predictor_costs_its_encoder_and_one_answer():
    predictor = load_predictor("mini_sam")
    seen = []
    encode = predictor.model.encode
    predictor.model.encode = lambda image: seen.append(image.shape) or encode(image)
    small = prompt_costs(predictor, (64, 96), warmup=1, runs=2)
    assert len(seen) >= 2 * (1 + 2)  # the picture and the window around the box, each time anew
    assert small["cost_size"] == "96 x 64"
    assert small["parameters"] == count_parameters(predictor.model)
    assert small["inference_ms"] > 0
    assert small["memory_mb"] > 4 * small["parameters"] / 2**20
    assert prompt_costs(predictor, (64, 96), warmup=0, runs=1)["flops"] == small["flops"]
    predictor.set_image(np.zeros((64, 96, 3), dtype=np.uint8))
    box = np.array([24.0, 16.0, 72.0, 48.0])
    predictor.predict(box=box)
    with FlopCounterMode(display=False) as decoder_only:
        predictor.predict(box=box)
    assert 0 < decoder_only.get_total_flops() < small["flops"]


def test_memory_of_a_predictor_prints_nothing():
    """PyTorch's profiler warns, once a process, if the last picture's embedding is released in the measured step."""
    code = (
        "from labhelpers.prompting import load_predictor, prompt_costs;"
        "prompt_costs(load_predictor('mini_sam'), (64, 64), warmup=1, runs=1)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == run.stderr == ""


def test_peak_memory_is_what_lives_at_once():
    """Two tensors of 1 MB at once, though three are made; on a CPU here, by the same function as on a GPU."""
    cpu, made = torch.device("cpu"), []

    def step():
        first = torch.empty(2**18)
        second = torch.empty(2**18)
        del first
        made.append(torch.empty(2**18))
        del second

    assert peak_memory_mb(step, cpu) == pytest.approx(2, abs=0.05)
    assert len(made) == 1


def test_inference_memory_has_weights_and_activations():
    model = torch.nn.Conv2d(3, 8, 1, bias=False)
    activations = 8 * 64 * 64 * 4 / 2**20
    found = inference_memory_mb(model, (64, 64))
    assert found == pytest.approx(8 * 3 * 4 / 2**20 + activations, rel=0.2)
    assert inference_memory_mb(model, (128, 128)) > 3 * found
