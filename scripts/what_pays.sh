#!/usr/bin/env bash
# What pays: one trained network tested in several ways, or one seed trained in several ways, each
# against the plain one, run by run, with intervals over scenes.
#
#   scripts/what_pays.sh [DIR | --qa] [FLAGS…]
#
# Without DIR of the drawn scenes of the demo: FCD, and FCD+ trained in several ways. With --qa of
# FCD on these scenes labelled by their QA bands, by which its threshold is chosen too, tested on
# the masks. With DIR (see real_biome.sh), of the rows FCD and FCD64 of its folds, which
# real_biome.sh has trained in --dir.
# Typed again after a stop it goes on where it was. Of the flags below, --dir is what-pays and
# --seeds is "0 1 2 3 4" by default, with DIR real-biome and 0; --demo, --orig_image_dir and
# --image_dir do not belong here.
#
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

crops="" qa=false
[[ ${1:--} == -* ]] || { crops=$1; shift; }
[ "${1:-}" != --qa ] || { qa=true; shift; }
if [ -n "$crops" ]; then
    set -- --seeds 0 --dir real-biome "$@"
    # shellcheck source=scripts/real.sh
    source "$here/real.sh"
    for seed in $seeds; do
        [ -d "outputs/FCD-fold0-s$seed" ] || {
            echo "error: $PWD/outputs holds no FCD-fold0-s$seed; bash scripts/real_biome.sh" \
                "$crops --rows FCD --seeds \"$seeds\" makes it" >&2
            exit 2
        }
    done
    choices=(clear clear:99.5 clear:99 otsu f1)
else
    set -- --demo --dir what-pays --seeds "0 1 2 3 4" "$@"
    # shellcheck source=scripts/rows.sh
    source "$here/rows.sh"
    gan+=(--num_iters 3000 --num_iters_decay 1000 --ema 0.03)
    unet+=(--n_epochs 4 --classifier_head True)
    choices=(f1 clear clear:99.5 clear:99 otsu)
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
    test_row main.py "FCD, $way" "$run-${way//[ :]/-}" --model_weights "$(folder "$run")/models/best.pt" \
        --threshold "${choices[0]}" "$@"
}

ways() { # RUN: every way of testing an FCD
    local choice
    for choice in "${choices[@]}"; do
        as "$choice" "$1" --threshold "$choice"
    done
    as "four flips" "$1" --tta flip
    last_weights "$1"
    as "last weights" "$1" --model_weights "$(folder "$1")/models/last_weights.pt"
}

table() { # BASE FOLDER RUNS…
    step "against $1" -m fcd.comparison "${@:3}" --base "$1" --output_dir "outputs/$2" \
        ${crops:+--crops "$crops/patches.csv"}
}

of_folds() { # ROW SIDE FOLDER: what pays for the networks of a row, which saw patches of this side
    local seed run fold each=()
    for seed in $seeds; do
        for run in outputs/"$1"-fold*-s"$seed"; do
            [ -d "$run" ] || continue
            run=${run#outputs/}
            fold=${run#"$1-fold"}
            use "patches/$2-fold${fold%-s*}"
            ways "$run"
            each+=(outputs/"$run"-*)
        done
    done
    [ ${#each[@]} = 0 ] || table "FCD, ${choices[0]}" "$3" "${each[@]}"
}

of_qa() { # what pays where QA bands are all that is known
    local seed run choice way each=()
    if [ ! -f qa/complete ]; then
        say "$root/prepare_landsat8_biome.py" --data_path scenes --output_dir qa --patch_size 32 \
            --labels qa
        touch qa/complete
    fi
    for seed in $seeds; do
        run=FCD-qa-s$seed
        train_row main.py "$run" "$seed" "${gan[@]}" --image_dir qa
        for choice in "${choices[@]}"; do
            way=$run-${choice/:/-}
            each+=("outputs/$way")
            tested "$way" && continue
            say "$root/main.py" --mode test "${data[@]}" --image_dir qa --batch_size 64 \
                --experiment_name "$run" --threshold "$choice" "${extra[@]}"
            test_row main.py "FCD, $choice" "$way" --threshold known \
                --model_weights "$(weights "$run")"
        done
    done
    table "FCD, ${choices[0]}" what-pays-qa "${each[@]}"
}

learned() { # WAY SEED FLAGS…: an FCD+ on FCD's masks, which are made with these flags
    local name=FCD+-${1// /-}-s$2 file=generated_mask_${1// /-}_$2.tif
    masked "FCD-s$2" "$name" "$file" "${@:3}"
    train_row supervised_main.py "$name" "$2" "${unet[@]}" --train_mask_file "$file"
    test_row supervised_main.py "FCD+, $1" "$name"
}

of_drawn() { # what pays for FCD and FCD+ of the demo's scenes
    local seed each=() plus=()
    for seed in $seeds; do
        train_row main.py "FCD-s$seed" "$seed" "${gan[@]}"
        ways "FCD-s$seed"
        each+=(outputs/FCD-s"$seed"-*)
    done
    table "FCD, ${choices[0]}" what-pays "${each[@]}"
    for seed in $seeds; do
        learned plain "$seed"
        learned "unsure pixels ignored" "$seed" --unsure_from 0.8 --unsure_to 1.15
        plus+=(outputs/FCDPlus-*-s"$seed")
    done
    table "FCD+, plain" what-pays-plus "${plus[@]}"
}

if [ -n "$crops" ]; then
    of_folds FCD 32 what-pays
    of_folds FCD64 64 what-pays-64
elif $qa; then
    of_qa
else
    of_drawn
fi
