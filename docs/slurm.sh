#!/bin/bash
# An example for Slurm, not run here (there was no Slurm): one training on two nodes with four GPUs each.
#   sbatch docs/slurm.sh -m trainers.wgan --preset celeba --data_dir /shared/celeba
#SBATCH --job-name=wgan
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
# SIGTERM five minutes before the time is up: the trainers write a checkpoint and end.
#SBATCH --signal=TERM@300
set -euo pipefail

export MLFLOW_TRACKING_URI=${MLFLOW_TRACKING_URI:?the address of the tracking server}
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # see cluster.md
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# The job's number names the torchrun job. It stays the same when Slurm requeues the job, so a requeued one goes on with its run.
srun torchrun --nnodes="$SLURM_NNODES" --nproc-per-node=4 --max-restarts=3 \
    --rdzv-backend=c10d --rdzv-endpoint="$first:29500" --rdzv-id="$SLURM_JOB_ID" \
    "$@" --output_dir /shared/runs --cache_dir /shared/cache
