"""Trains Mini-SAM as in lab 06, or finds what was trained.

    python train_minisam.py                  on the data of the default profile
    python train_minisam.py --profile lab    with the recipe for a GPU

Needs labhelpers, the library of the course, which holds the training loop and the recipe.
"""

import sys

from labhelpers.course.train import script

if __name__ == "__main__":
    sys.exit(script(__doc__, ["mini_sam"]))
