"""Weights into the wheel, so that an installed labhelpers has them too; a checkout finds them in checkpoints/."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WeightsInWheel(BuildHookInterface):
    """An editable install gets no copy: it would lie in a second, otherwise empty folder named labhelpers."""

    def initialize(self, version: str, build_data: dict) -> None:
        if version != "editable":
            for name in ("mini_sam", "encoder_resnet18", "encoder_mobilenet_v3_small"):
                build_data["force_include"][f"checkpoints/{name}.safetensors"] = (
                    f"labhelpers/weights/{name}.safetensors"
                )
