"""Weights into the wheel, so that an installed labhelpers has them too; a checkout finds them in checkpoints/."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WeightsInWheel(BuildHookInterface):
    """An editable install gets no copy: it would lie in a second, otherwise empty folder named labhelpers."""

    def initialize(self, version: str, build_data: dict) -> None:
        if version != "editable":
            build_data["force_include"]["checkpoints/mini_sam.safetensors"] = "labhelpers/weights/mini_sam.safetensors"
