#!/bin/bash
# An array of 8 tasks, each with one part of the build and one GPU. The folder BUILD is on a disk that all nodes mount.
# Submit it, then the job that joins the parts:
#     job=$(sbatch --parsable slurm_array.sh)
#     sbatch --dependency="afterok:$job" --wrap "handdata build hand1000 --out $BUILD --join"
#SBATCH --job-name=hand1000
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=48G
#SBATCH --time=06:00:00
#SBATCH --output=hand1000-%A-%a.log
#SBATCH --requeue
set -eu
RECIPE=${RECIPE:-hand1000}
BUILD=${BUILD:?set BUILD to a folder that all nodes mount}

# a task that is requeued resumes its part
handdata build "$RECIPE" --out "$BUILD" --part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
