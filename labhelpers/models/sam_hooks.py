"""What the networks of `transformers` need to have changed from outside, by hooks on their parts."""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["halve", "repair_hq_decoder"]


def halve(encoder: nn.Module) -> None:
    """Have a part of a network compute in float16, while what goes in and comes out stays float32."""

    def as_half(_module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Any]) -> tuple[tuple, dict]:
        return _cast(args, torch.float16), _cast(named, torch.float16)

    def as_float(_module: nn.Module, _args: Any, output: Any) -> Any:
        for key in output:  # a dict that is an object, too
            output[key] = _cast(output[key], torch.float32)
        return output

    encoder.half()
    encoder.register_forward_pre_hook(as_half, with_kwargs=True)
    encoder.register_forward_hook(as_float)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_cast(item, dtype) for item in value)
    return {key: _cast(item, dtype) for key, item in value.items()} if isinstance(value, dict) else value


def repair_hq_decoder(decoder: nn.Module) -> None:
    """Have SAM-HQ's decoder enlarge what its transformer returned, as Ke et al. (2023) do and SAM's decoder does.

    In `transformers` 5.23 it enlarges the embedding from before the transformer, which no prompt has reached, and with
    rows and columns exchanged, so that masks are not where the prompt was. Where the library is right this changes
    nothing.
    """
    updated: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: tuple[Tensor, Tensor]) -> None:
        updated[:] = [output[1]]  # (P, 1, h * w, C)

    def replace(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (updated.pop().transpose(2, 3).reshape(args[0].shape),)  # (P, C, h, w)

    decoder.transformer.register_forward_hook(keep)
    decoder.upscale_conv1.register_forward_pre_hook(replace)
