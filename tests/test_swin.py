"""Swin-UNETR of MONAI, where that is installed."""

import sys

import pytest
import torch

from labhelpers.models.library import build_swin_unetr


def monai():
    pytest.importorskip("monai", reason="MONAI is not installed: pip install labhelpers[monai]")


@pytest.mark.parametrize("size", [(33, 47), (64, 96)])
def test_any_size_and_a_gradient_for_every_parameter(size):
    monai()
    model = build_swin_unetr(num_classes=5, feature_size=12)
    assert (model.name, model.weights) == ("swin_unetr 12", "random")
    logits = model(torch.randn(1, 3, *size))
    assert logits.shape == (1, 5, *size)
    logits.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    encoder = {id(p) for p in model.encoder.parameters()}
    assert 0 < len(encoder) < len(list(model.parameters()))


def test_feature_size_must_fit_the_heads():
    monai()
    for size in (0, 20):
        with pytest.raises(ValueError, match=f"feature_size={size}: it must be a multiple of 12"):
            build_swin_unetr(feature_size=size)


@pytest.mark.parametrize("missing", ["monai.networks.nets", "einops"])
def test_without_the_extra_the_remedy_is_told(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "monai.networks.nets":
        monkeypatch.setitem(sys.modules, "monai", None)
    with pytest.raises(ImportError, match=r'pip install "labhelpers\[monai\]", or leave this network out'):
        build_swin_unetr()
