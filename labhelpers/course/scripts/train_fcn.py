"""Trains FCN-32s, FCN-16s and FCN-8s as in lab 02, or finds what was trained.

    python train_fcn.py                  all three; name one to train only that
    python train_fcn.py --profile lab    with the recipe for a GPU

Needs labhelpers, the library of the course, which holds the training loop and the recipe.
"""

import sys

from labhelpers.course.train import script

if __name__ == "__main__":
    sys.exit(script(__doc__, ["fcn32s", "fcn16s", "fcn8s"]))
