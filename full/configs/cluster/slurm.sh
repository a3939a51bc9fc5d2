#!/bin/bash
# A training run on SLURM: one node, or several (--nodes), stopped and resumed by pre-emption. Untested on a real cluster.
#   sbatch full/configs/cluster/slurm.sh --config full/configs/qwen3_1.7b_math_l3.yaml --name apo-s0
#   sbatch --nodes 3 full/configs/cluster/slurm.sh --config full/configs/qwen3_1.7b_math_l3.yaml --name apo-s0
# With an array, one row of a sweep per job; a row is one process, so it takes one GPU. --dry-run lists the rows, --table
# shows what is done:
#   sbatch --array 0-69 --gpus-per-node 1 --cpus-per-task 8 full/configs/cluster/slurm.sh --sweep full/configs/experiments/stale_update.yaml
#   python full/sweep.py full/configs/experiments/stale_update.yaml --table
# Each GPU holds the model (ddp.yaml), which samples several times faster than GPUs that share it; for a model that does not fit:
#   SHARING=fsdp2 sbatch full/configs/cluster/slurm.sh --config ... --name ...
#SBATCH --job-name=apo
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@300
# SLURM sends SIGTERM five minutes before it stops the job: the trainer writes a checkpoint and ends. A requeued job finds
# the run's folder and resumes it.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?this script is for sbatch}"
source .venv/bin/activate

if [ "${1:-}" = --sweep ]; then
    exec srun python full/sweep.py "$2" --row "${SLURM_ARRAY_TASK_ID:?--sweep needs sbatch --array}"
fi

name=
for ((i = 1; i <= $#; i++)); do
    if [ "${!i}" = --name ]; then next=$((i + 1)); name=${!next}; fi
done
: "${name:?give the run a --name, so that a requeued job finds it}"
options=("$@")
[ -f "runs/$name/config.yaml" ] && options=(--resume "runs/$name")

export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1) MASTER_PORT=29500
exec srun bash -c '
    accelerate launch --config_file full/configs/accelerate/${SHARING:-ddp}.yaml \
        --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
        --num_processes $((SLURM_NNODES * SLURM_GPUS_ON_NODE)) \
        --main_process_ip "$MASTER_ADDR" --main_process_port "$MASTER_PORT" full/train.py "$@"' launch "${options[@]}"
