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
if [[ ! $jobs =~ ^[1-9][0-9]*$ ]]; then
    echo "error: --jobs $jobs is no number of rows; give 1 or more" >&2
    exit 2
fi
set -- "${arguments[@]}"
# shellcheck source=scripts/rows.sh
source "$here/rows.sh"

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc) + jobs - 1) / jobs))}
mkdir -p logs
: >logs/done
set -m # each row group is a process group of its own, so that a stop reaches all of it
stop() {
    local group
    for group in $(jobs -rp); do
        kill -TERM -- "-$group"
    done
    wait
    exit 130
}
trap stop INT TERM

carry_out() { # NAME SEED SCRIPT…: one script after the other, printing to logs/NAME-SEED.log
    local name=$1-$2 seed=$2 script
    shift 2
    echo "$(date +%T) $name begins"
    for script in "$@"; do
        bash "$here/$script" "${arguments[@]}" --dir "$PWD" --seeds "$seed" || return
    done >"logs/$name.log" 2>&1
    echo "$name" >>logs/done
    echo "$(date +%T) $name is done"
}

rows=()
start() { # as soon as fewer than $jobs are running
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
        sleep 1
    done
    carry_out "$@" &
    rows+=("$1-$2")
}

echo "follow a row with: tail -f $PWD/logs/…"
for seed in $seeds; do
    start fcd "$seed" run_fcd.sh run_fcdplus.sh # FCD+ learns from the masks of FCD
done
for seed in $seeds; do
    start supervised "$seed" run_supervised.sh
    start cam "$seed" run_cam.sh
done
start cfmask 0 run_cfmask.sh
wait
failed=false
for row in "${rows[@]}"; do
    # Not by the exit code, which bash forgets of processes that ended an hour ago.
    if ! grep -qx "$row" logs/done; then
        failed=true
        echo "error: $row stopped: $(tail -n 1 "logs/$row.log")" >&2
    fi
done
if $failed; then
    echo "error: not every row is done; all they say is in $PWD/logs; type the command again to go on" >&2
    exit 1
fi

names=(QA)
for seed in $seeds; do
    for name in FCD- FCD-unlabelled- StarGAN- CAM- GradCAM- GradCAMpp- UCAM- FCDPlus- \
        FCDPlus-unlabelled- FCDPlus1Pct- Supervised- Pre- Pre1Pct- Rand1Pct-; do
        names+=("$name$seed")
    done
done
say -m fcd.comparison "${names[@]/#/outputs/}" --output_dir outputs/comparison
echo "report: $PWD/outputs/comparison/comparison.html"
