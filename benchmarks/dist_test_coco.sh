#!/usr/bin/env bash
# The nine COCO protocols of a checkpoint, in the order of the original project's script, on every GPU of the node.
#
#   benchmarks/dist_test_coco.sh CHECKPOINT WORK_DIR [option of run.py ...]
#
# What has its result is skipped, what was interrupted goes on: run the same command again. The row is named after the
# checkpoint's file unless NAME is set; GPUS limits the processes. Under Slurm (sbatch or salloc with srun) the tasks
# are started through srun instead, a process a GPU: see benchmarks/slurm_test_coco.sbatch.
set -euo pipefail

[ $# -ge 2 ] || { echo "usage: $0 CHECKPOINT WORK_DIR [option of run.py ...]" >&2; exit 2; }
checkpoint=$1 work_dir=$2
shift 2
[ -f "$checkpoint" ] || { echo "error: checkpoint $checkpoint: no such file" >&2; exit 2; }
file=$(basename "$checkpoint")
name=${NAME:-${file%.*}}

if [ -n "${SLURM_JOB_ID:-}" ]; then
    # srun has not taken the job's --cpus-per-task by itself since Slurm 22.05.
    launch=(srun --kill-on-bad-exit=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} python)
else
    gpus=${GPUS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
    launch=(python -m torch.distributed.run --standalone --nproc_per_node "$gpus")
fi

for schedule in 12k 1x 2x; do
    for task in coco_maskrcnn_fpn coco_retinanet_fpn coco_maskrcnn_c4; do
        echo "== $name, $task, $schedule"
        "${launch[@]}" -m benchmarks.run --scale paper --checkpoint "$checkpoint" --name "$name" --task "$task" \
            --schedule "$schedule" --work-dir "$work_dir" "$@"
    done
done
