#!/usr/bin/env bash
# Newton on the Adult salary data with mpiexec, on this machine.
#
#   jobs/adult_newton.sh [RANKS [options of `hesscomp newton`]]
#   jobs/adult_newton.sh 4 --ridge 1e-6 --dtype float64
#
# RANKS is 2 unless given. Results go to the folder OUT (out).
# HESSCOMP_VENV names the Python environment; by default .venv beside this folder, where it exists.
# For your own data replace `adult` by a file: LIBSVM, CSV, HDF5 or NPZ.
set -euo pipefail

ranks=${1:-2}
shift $(($# > 0))
[[ $ranks =~ ^[1-9][0-9]*$ ]] || { echo "$0: the number of ranks comes first, not $ranks" >&2; exit 2; }
out=${OUT:-out}
venv=${HESSCOMP_VENV:-$(dirname "$0")/../.venv}
if [ -x "$venv/bin/hesscomp" ]; then PATH="$venv/bin:$PATH"; fi

# The cores, shared among the ranks. Set OMP_NUM_THREADS to choose otherwise.
threads=$(($(nproc) / ranks))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}

mkdir -p "$out"
mpiexec -n "$ranks" hesscomp newton --data adult --solver pcg --rank 40 \
    --factor-out "$out/adult-factor.h5" \
    --json "$out/adult-report.json" \
    --plot "$out/adult-convergence.png" \
    "$@"
