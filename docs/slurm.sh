#!/bin/bash
# Trains the network of a lab on a cluster with Slurm, on two nodes with two GPUs each:
#   source .venv/bin/activate && sbatch docs/slurm.sh fcn8s
# A job that was stopped continues from its last checkpoint, also on another number of nodes or GPUs.
#SBATCH --job-name=labhelpers
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1      # one torchrun on each node, which starts a process for each GPU
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
set -euo pipefail

# Data and checkpoints must lie on a disk that all nodes see. Uncomment it if the checkout does not:
# export LAB_HOME="$HOME/segmentation-labs"

# The data first, by one process: others would give up waiting during a long download. If the nodes have no internet,
# first run this on the login node, with the same LAB_HOME; the second line fetches ResNet-50's weights. Otherwise the
# job trains from random weights on synthetic scenes, and says so.
#   python -m labhelpers data voc
#   python -c "from labhelpers.models import build_encoder; build_encoder(pretrained=True)"
python -m labhelpers data course

# The processes meet on the first node, at a port that another job there does not have.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${nodes%%$'\n'*} # no `head`, which would end scontrol while it still writes
port=$((10000 + SLURM_JOB_ID % 50000))
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" --rdzv-backend c10d \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:$port" -m labhelpers.cli train "$@"
