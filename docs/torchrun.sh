#!/bin/bash
# Trains the network of a lab on all GPUs of one machine:
#   source .venv/bin/activate && bash docs/torchrun.sh fcn8s
# PROCESSES=2 before it starts two processes, which also works without a GPU.
set -euo pipefail

# The data first, by one process: others would give up waiting during a long download.
python -m labhelpers data course

torchrun --standalone --nproc-per-node "${PROCESSES:-gpu}" -m labhelpers.cli train "$@"
