#!/usr/bin/env bash
# Everything that only a GPU can show, in 25 minutes; one JSON with card, versions, commands and figures.
#   tests/benchmarks/gpu_day.sh [--out gpu_day.json] [--only doctor hf ...] [--minutes 25]
#   tests/benchmarks/gpu_day.sh --rehearse      the same on a CPU with a tiny model: shows that the script works
set -euo pipefail
cd "$(dirname "$0")/../.."
python=.venv/bin/python
[ -x "$python" ] || python=python3
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" TQDM_DISABLE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
exec "$python" tests/benchmarks/gpu_day.py "$@"
