#!/usr/bin/env bash
# The Hessians along a training run: a job array with a task for each checkpoint, then a job that
# waits for all of them and makes one trajectory file.
#
#   jobs/trajectory.sh run/ckpt-*.h5
#
# Call it where you would call sbatch. To adapt: jobs/trajectory.sbatch, which says what a task does.
set -euo pipefail

[ $# -gt 0 ] || { echo "$0: name the checkpoints" >&2; exit 2; }
if [ "$(basename -a -- "$@" | sort -u | wc -l)" != $# ]; then
    echo "$0: two checkpoints have the same name" >&2
    exit 2
fi
jobs=$(dirname "$0")
array=$(sbatch --parsable --array=0-$(($# - 1)) "$jobs/trajectory.sbatch" "$@")
array=${array%%;*} # with several clusters the name of one follows
sbatch --dependency=afterok:"$array" --kill-on-invalid-dep=yes "$jobs/merge.sbatch" \
    "out/trajectory-$array/*.h5" --out "out/trajectory-$array.h5"
