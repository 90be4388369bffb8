#!/usr/bin/env bash
# What pays: one trained network tested in several ways, or one seed trained in several ways, each
# against the plain one, run by run, with intervals over scenes.
#
#   scripts/what_pays.sh [DIR] [FLAGS…]
#
# Without DIR of the drawn scenes of the demo: FCD, and FCD+ trained in several ways. With DIR (see
# real_biome.sh), of the FCD of its folds, which real_biome.sh has trained in --dir.
# Typed again after a stop it goes on where it was. Of the flags below, --dir is what-pays and
# --seeds is "0 1 2 3 4" by default, with DIR real-biome and 0; --demo, --orig_image_dir and
# --image_dir do not belong here.
#
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

crops=""
[[ ${1:--} == -* ]] || { crops=$1; shift; }
if [ -n "$crops" ]; then
    set -- --seeds 0 --dir real-biome "$@"
    # shellcheck source=scripts/real.sh
    source "$here/real.sh"
    runs=(outputs/FCD-fold*-s[0-9]*)
    [ -d "${runs[0]}" ] || {
        echo "error: $PWD/outputs holds no FCD-fold…; bash scripts/real_biome.sh $crops" \
            "--rows FCD makes it" >&2
        exit 2
    }
    choices=(clear otsu f1)
else
    set -- --demo --dir what-pays --seeds "0 1 2 3 4" "$@"
    # shellcheck source=scripts/rows.sh
    source "$here/rows.sh"
    gan+=(--num_iters 3000 --num_iters_decay 1000 --ema 0.03)
    unet+=(--n_epochs 4 --classifier_head True)
    choices=(f1 clear otsu)
fi

last_weights() { # RUN: its best checkpoint without the average of the weights
    local models
    tested "$1-last-weights" >/dev/null && return
    models=$(folder "$1")/models
    python -c '
import sys
from fcd.training import checkpoints
state = checkpoints.load(sys.argv[1])
checkpoints.save(sys.argv[2], {k: v for k, v in state.items() if not k.endswith("_average")})
' "$models/best.pt" "$models/last_weights.pt"
}

as() { # WAY RUN FLAGS…: the network of RUN, tested in another way
    local way=$1 run=$2
    shift 2
    test_row main.py "FCD, $way" "$run-${way// /-}" --model_weights "$(folder "$run")/models/best.pt" \
        --threshold "${choices[0]}" "$@"
}

ways() { # RUN: every way of testing an FCD
    as "${choices[0]}" "$1"
    as "${choices[1]}" "$1" --threshold "${choices[1]}"
    as "${choices[2]}" "$1" --threshold "${choices[2]}"
    as "four flips" "$1" --tta flip
    last_weights "$1"
    as "last weights" "$1" --model_weights "$(folder "$1")/models/last_weights.pt"
}

table() { # BASE FOLDER RUNS…
    step "against $1" -m fcd.comparison "${@:3}" --base "$1" --output_dir "outputs/$2" \
        ${crops:+--crops "$crops/patches.csv"}
}

each=()
if [ -n "$crops" ]; then
    for seed in $seeds; do
        for run in outputs/FCD-fold*-s"$seed"; do
            run=${run#outputs/}
            fold=${run#FCD-fold}
            use "patches/32-fold${fold%-s*}"
            ways "$run"
            each+=(outputs/"$run"-*)
        done
    done
    table "FCD, ${choices[0]}" what-pays "${each[@]}"
    exit
fi

learned() { # WAY SEED FLAGS…: an FCD+ on FCD's masks, which are made with these flags
    local name=FCD+-${1// /-}-s$2 file=generated_mask_${1// /-}_$2.tif
    masked "FCD-s$2" "$name" "$file" "${@:3}"
    train_row supervised_main.py "$name" "$2" "${unet[@]}" --train_mask_file "$file"
    test_row supervised_main.py "FCD+, $1" "$name"
}

for seed in $seeds; do
    train_row main.py "FCD-s$seed" "$seed" "${gan[@]}"
    ways "FCD-s$seed"
    each+=(outputs/FCD-s"$seed"-*)
done
table "FCD, ${choices[0]}" what-pays "${each[@]}"

plus=()
for seed in $seeds; do
    learned plain "$seed"
    learned "unsure pixels ignored" "$seed" --unsure_from 0.8 --unsure_to 1.15
    plus+=(outputs/FCDPlus-*-s"$seed")
done
table "FCD+, plain" what-pays-plus "${plus[@]}"
