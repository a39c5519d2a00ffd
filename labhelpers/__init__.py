"""labhelpers: the tested library behind the Segmentation Labs notebooks.

Importing it first sets `OMP_WAIT_POLICY=PASSIVE`: with few cores, OpenMP threads that spin while they wait make a
training step up to thirty times slower, and the runtime reads the variable only once, when torch is imported.
"""

import os
import sys
import warnings

__version__ = "0.1.0"

if "OMP_WAIT_POLICY" not in os.environ:
    if "torch" in sys.modules:
        warnings.warn(
            "torch was imported before labhelpers, so OMP_WAIT_POLICY=PASSIVE comes too late and training on a CPU may "
            "be many times slower. Remedy: restart the kernel and import labhelpers before torch.",
            stacklevel=2,
        )
    else:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
