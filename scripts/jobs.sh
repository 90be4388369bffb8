# shellcheck shell=bash
# Sourced by the scripts that carry out many rows: several at a time, each with its share of the
# CPU's cores. It needs $jobs, $arguments (of every script) and $here (where the scripts are).
if [[ ! $jobs =~ ^[1-9][0-9]*$ ]]; then
    echo "error: --jobs $jobs is no number of rows; give 1 or more" >&2
    exit 2
fi

begin() { # in the folder of the runs
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((($(nproc) + jobs - 1) / jobs))}
    mkdir -p logs
    exec {lock}>logs/lock # held until the last of the rows has ended
    flock -n "$lock" || {
        echo "error: $PWD: this command is running here already; wait for it or give another --dir" >&2
        exit 2
    }
    : >logs/done
    set -m # each row group is a process group of its own, so that a stop reaches all of it
    trap _stop INT TERM
    echo "follow a row with: tail -f $PWD/logs/…"
}

_stop() {
    local group
    for group in $(jobs -rp); do
        kill -TERM -- "-$group"
    done
    wait
    exit 130
}

_rows() { # NAME SEED SCRIPT…: one script after the other, printing to logs/NAME-SEED.log
    local name=$1-$2 seed=$2 script
    shift 2
    echo "$(date +%T) $name begins"
    for script in "$@"; do
        # shellcheck disable=SC2086  # a script comes with its flags
        bash "$here"/$script "${arguments[@]}" --dir "$PWD" --seeds "$seed" || return
    done >"logs/$name.log" 2>&1
    echo "$name" >>logs/done
    echo "$(date +%T) $name is done"
}

rows=()
start() { # NAME SEED SCRIPT…, as soon as fewer than $jobs are running
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do
        sleep 1
    done
    _rows "$@" &
    rows+=("$1-$2")
}

finish() { # wait for all that was started; name what stopped, and exit with 1 if anything did
    local row failed=false
    wait
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
}
