#!/usr/bin/env bash
# Every row, then the table. Arguments: those of scripts/rows.sh, and
#
#   --jobs N    as many rows at the same time (default 1), each with its share of the CPU's cores;
#               what they print is in logs/ beside outputs/
#
# Typed again after a stop it goes on where it was.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
jobs=1 arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --jobs) jobs=${2:?--jobs needs a number}; shift 2 ;;
        *) arguments+=("$1"); shift ;;
    esac
done
# shellcheck source=scripts/jobs.sh
source "$here/jobs.sh"
set -- "${arguments[@]}"
# shellcheck source=scripts/rows.sh
source "$here/rows.sh"

begin
for seed in $seeds; do
    start fcd "$seed" run_fcd.sh run_fcdplus.sh # FCD+ learns from the masks of FCD
done
for seed in $seeds; do
    start supervised "$seed" run_supervised.sh
    start cam "$seed" run_cam.sh
done
start cfmask 0 run_cfmask.sh
finish

names=(QA)
for seed in $seeds; do
    for name in FCD- FCD-unlabelled- StarGAN- CAM- GradCAM- GradCAMpp- UCAM- FCDPlus- \
        FCDPlus-unlabelled- FCDPlus1Pct- Supervised- Pre- Pre1Pct- Rand1Pct-; do
        names+=("$name$seed")
    done
done
say -m fcd.comparison "${names[@]/#/outputs/}" --output_dir outputs/comparison
echo "report: $PWD/outputs/comparison/comparison.html"
