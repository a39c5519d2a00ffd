"""Folders with a tiny SAM of each kind with random weights, as `save_pretrained` writes them; for tests only."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

SIDE = 64  # pixels of the square that these networks see
_VISION = {
    "hidden_size": 32,
    "output_channels": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
    "window_size": 4,
    "global_attn_indexes": [1],
    "num_pos_feats": 8,
}
_PROMPT = {"hidden_size": 16, "image_size": SIDE, "patch_size": 8, "mask_input_channels": 8}
_DECODER = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 4, "iou_head_hidden_dim": 16}
_HIERA = {
    "hidden_size": 8,
    "num_attention_heads": 1,
    "image_size": [SIDE, SIDE],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 2, 2, 4],
    "window_size_per_stage": [4, 4, 2, 2],
    "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [4, 4],
}
_TIMM = {
    "model_type": "timm_wrapper",
    "architecture": "test_convnext",
    "num_classes": 2,
    "label_names": ["a", "b"],
    "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
}


def the_library() -> ModuleType:
    """`transformers`; without it the test is skipped."""
    return pytest.importorskip("transformers", reason='needs the extra sam: pip install "labhelpers[sam]"')


def tiny_network(kind: str = "sam", seed: int = 0) -> torch.nn.Module:
    """A network of `transformers`: "sam", "sam_hq", "sam2" or "edgetam"."""
    transformers = the_library()
    torch.manual_seed(seed)
    if kind in ("sam2", "edgetam"):
        config_class, network_class, backbone, channels = {
            "sam2": (
                transformers.Sam2Config,
                transformers.Sam2Model,
                {"model_type": "sam2_hiera_det_model", **_HIERA},
                [64, 32, 16, 8],
            ),
            "edgetam": (transformers.EdgeTamConfig, transformers.EdgeTamModel, _TIMM, [64, 48, 32, 24]),
        }[kind]
        vision = {
            "backbone_config": backbone,
            "backbone_channel_list": channels,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 16,
        }
        prompt = {**_PROMPT, "patch_size": 16}
        config = config_class(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=_DECODER)
        network = network_class(config)
    else:
        config_class, network_class = {
            "sam": (transformers.SamConfig, transformers.SamModel),
            "sam_hq": (transformers.SamHQConfig, transformers.SamHQModel),
        }[kind]
        decoder = {**_DECODER, "vit_dim": 32} if kind == "sam_hq" else _DECODER
        config = config_class(vision_config=_VISION, prompt_encoder_config=_PROMPT, mask_decoder_config=decoder)
        network = network_class(config)
    with torch.no_grad():  # the library's own start is next to zero, so that every answer would be the same
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                inputs = parameter[0].numel() if "upscale" not in name else parameter[:, 0].numel()
                parameter.normal_(std=1.5 * inputs**-0.5)
        network.mask_decoder.iou_prediction_head.proj_out.bias.add_(0.5)
    return network


def write_tiny_sam(folder: Path, kind: str = "sam", seed: int = 0) -> Path:
    """`config.json` and `model.safetensors` in the folder."""
    logging = the_library().utils.logging
    logging.disable_progress_bar()  # of writing
    tiny_network(kind, seed).save_pretrained(folder)
    logging.enable_progress_bar()
    return folder
