"""Trains DeepLabV3 and DeepLabV3+ as in lab 03, or finds what was trained.

    python train_deeplab.py                  both; name one to train only that
    python train_deeplab.py --profile lab    with the recipe for a GPU

Needs labhelpers, the library of the course, which holds the training loop and the recipe.
"""

import sys

from labhelpers.course.train import script

if __name__ == "__main__":
    sys.exit(script(__doc__, ["deeplabv3", "deeplabv3plus"]))
