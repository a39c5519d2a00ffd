"""Training images for a network that segments whatever is pointed at: photographs, and new ones made out of them.

A few dozen labelled photographs are too few to learn from as they are. So they are cut out in windows of all sizes,
their objects are pasted into each other (Ghiasi et al., Simple Copy-Paste, CVPR 2021), and shapes without any meaning
are filled with textures: what an object is, is then told by its edge and its look, not by its class.
"""

from labhelpers.data.mixture.dataset import ObjectMixture
from labhelpers.data.mixture.library import Library, components

__all__ = ["Library", "ObjectMixture", "components"]
