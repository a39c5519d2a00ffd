"""Swin-UNETR for images: a Swin transformer as encoder, a convolutional decoder with skips.

Hatamizadeh et al.: Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI Images, BrainLes
2021, Figure 1, here with two spatial dimensions instead of three. The network is MONAI's, an optional extra.
"""

from labhelpers.models.smp import LibraryNetwork


def build_swin_unetr(num_classes: int = 21, feature_size: int = 24) -> LibraryNetwork:
    """MONAI's SwinUNETR in two dimensions with random weights (none are published for them).

    Args:
        num_classes: K.
        feature_size: channels of the patch embedding, a multiple of 12; 24 gives 6.3 M parameters, 48 (as in
            the paper) 25 M.

    Raises:
        ImportError: MONAI or einops is not installed.
        ValueError: `feature_size` is not a multiple of 12.
    """
    try:
        import einops  # noqa: F401  (MONAI asks for it at the first call only)
        from monai.networks.nets import SwinUNETR
    except ImportError as error:
        raise ImportError(
            f"Swin-UNETR needs MONAI and einops, an optional extra of labhelpers ({error}). Install it with "
            'pip install "labhelpers[monai]", or leave this network out.'
        ) from error
    if feature_size < 12 or feature_size % 12:
        raise ValueError(f"feature_size={feature_size}: it must be a multiple of 12, as the heads share the channels")
    network = SwinUNETR(in_channels=3, out_channels=num_classes, feature_size=feature_size, spatial_dims=2)
    return LibraryNetwork(network, "swinViT", f"swin_unetr {feature_size}", "random")
