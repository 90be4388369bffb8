#!/usr/bin/env bash
# The benchmark of real pixels: crops of real scenes with their manual masks, each tested once, by
# networks that have not seen its scene. It ends with the table: 95 % intervals are over scenes.
#
#   scripts/real_biome.sh DIR [--folds N] [--jobs N] [--rows "FCD FCD+"] [FLAGS…]
#
# DIR holds images/, masks/ and patches.csv (docs/real-pixels.md); python -m fcd.crops makes such
# from scenes of the Biome data set. Of its scenes one in N (default 3) is tested by each fold.
# --jobs N carries out as many folds at the same time (default 1), each with its share of the CPU's
# cores; what they print is in logs/. --rows names some of FCD FCD+ Drawn+ Second FCD+1Pct Supervised
# CAM UCAM Drawn, with the rows that others build on: FCD+ for FCD+1Pct. Further rows, not in the
# default: FCD64 (FCD of patches of 64 pixels), TOA and Paper (FCD with --normalize toa and paper).
# Typed again after a stop it goes on where it was.
# Of the flags below, --dir is real-biome and --seeds is 0 by default; --demo, --orig_image_dir and
# --image_dir do not belong here.
#
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

crops="" folds=3 jobs=1 only="" arguments=() defaults=(--seeds 0 --dir real-biome)
methods="FCD FCD+ Drawn+ Second FCD+1Pct Supervised CAM UCAM Drawn"
while [ $# -gt 0 ]; do
    case $1 in
        --folds) folds=${2:?--folds needs a number}; shift 2 ;;
        --rows) methods=${2:?--rows needs names such as \"FCD FCD+\"}; shift 2 ;;
        --jobs) jobs=${2:?--jobs needs a number}; shift 2 ;;
        --only) only=${2:?--only needs the number of a fold}; shift 2 ;; # how the folds are started
        --demo | --orig_image_dir* | --image_dir* | --dataset*)
            echo "error: $1 does not go with scripts/real_biome.sh, whose data is in DIR" >&2
            exit 2
            ;;
        -h | --help) arguments+=("$1"); shift ;;
        --*=*) arguments+=("$1"); shift ;;
        -*) arguments+=("$1" "${2:-}"); shift $(($# > 1 ? 2 : 1)) ;;
        *) crops=$1; shift ;;
    esac
done
# shellcheck source=scripts/jobs.sh
source "$here/jobs.sh"
set -- "${defaults[@]}" "${arguments[@]}"
# shellcheck source=scripts/real.sh
source "$here/real.sh"

# Folds and runs of other crops, or of as many as before in other folds, would be mixed up.
this="$folds folds of $crops"
if [ -f benchmark.txt ] && [ "$(cat benchmark.txt)" != "$this" ]; then
    echo "error: $PWD holds $(cat benchmark.txt), not $this; give another --dir" >&2
    exit 2
fi
echo "$this" >benchmark.txt

wanted() { # ROW
    [[ " $methods " == *" $1 "* ]]
}

gan_row() { # ROW METHOD SIDE FLAGS…: train and test an FCD of patches of this side on this fold
    use "patches/$3-fold$fold"
    train_row main.py "$1-$run" "$seed" "${gan[@]}" --image_size "$3" "${@:4}"
    test_row main.py "$2" "$1-$run" "${of_clear[@]}"
}

row() { # ROW METHOD SEED FLAGS…: train and test a U-Net on this fold, if it is wanted
    wanted "$1" || return 0
    train_row supervised_main.py "$1-$run" "$3" "${@:4}"
    test_row supervised_main.py "$2" "$1-$run" --tta flip
}

to_learn() { # ROW: whether labelled_row has work on this fold
    wanted "$1" && [ ! -f "$(folder "$1-$run")/results/labelled.json" ]
}

# Networks that no pixel label calibrates say of scenes they have not seen far less than 0.5 where
# they should. Image labels of unseen scenes tell: those of the others' folds, which this one learns.
labelled_row() { # ROW SEED FLAGS…: train a U-Net on this fold; which threshold parts the tested ones
    local results
    to_learn "$1" || return 0
    results=$(folder "$1-$run")/results
    train_row supervised_main.py "$1-$run" "$2" "${@:3}"
    use "patches/64-held$fold"
    say "$root/supervised_main.py" --mode pack "${data[@]}" --batch_size 64 \
        --experiment_name "$1-$run" --threshold image "${extra[@]}"
    cp "$results/threshold.json" "$results/labelled.json" # the test writes its own threshold there
    use "patches/64-fold$fold"
}

of_others() { # NAME: the threshold for what labelled_row measured on other folds than $fold, together
    local other records=()
    for ((other = 0; other < folds; other++)); do
        [ "$other" = "$fold" ] ||
            records+=("$(folder "$1-fold$other-s$seed")/results/labelled.json")
    done
    python -c '
import sys
from pathlib import Path
from fcd.masks.thresholds import pooled
print(pooled(map(Path, sys.argv[1:])))
' "${records[@]}"
}

test_by_others() { # ROW METHOD: test what labelled_row has trained, by the others' thresholds
    wanted "$1" || return 0
    test_row supervised_main.py "$2" "$1-fold$fold-s$seed" --tta flip \
        --threshold "$(of_others "$1")"
}

map_row() { # ROW METHOD SEED NETWORK: the same of a class activation map
    wanted "$1" || return 0
    train_row supervised_main.py "$1-$run" "$3" "${of_maps[@]}" --network "$4"
    test_row supervised_main.py "$2" "$1-$run" "${maps[@]}"
}

if [ -z "$only" ]; then
    step "folds" -m fcd.folds "$crops" --output_dir folds --folds "$folds"
    for ((fold = 0; fold < folds; fold++)); do
        cut_patches "folds/fold-$fold.csv" "patches/32-fold$fold" 32 32
        cut_patches "folds/fold-$fold.csv" "patches/64-fold$fold" 64 32
        cut_patches "folds/held-$fold.csv" "patches/64-held$fold" 64 32
    done
    if wanted Drawn || wanted Drawn+ || wanted Second; then
        draw
        use patches/drawn
        of_drawn+=(--train_bands "$(bands_of_crops),SUN")
        for seed in $seeds; do
            train_row supervised_main.py "Drawn-s$seed" "$seed" "${unet[@]}" "${of_drawn[@]}"
        done
    fi
    begin
    arguments=("$crops" --folds "$folds" --rows "$methods" "${arguments[@]}")
    for seed in $seeds; do
        for ((fold = 0; fold < folds; fold++)); do
            start "fold$fold" "$seed" "real_biome.sh --only $fold"
        done
    done
    finish
fi

# What has learned drawn scenes knows the sun.
[ -z "$only" ] || after_drawn+=(--train_bands "$(bands_of_crops),SUN")
for seed in $seeds; do
    for fold in $only; do
        run=fold$fold-s$seed drawn=$(weights "Drawn-s$seed")
        mask_file=generated_${seed}_mask.tif second_file=second_${seed}_mask.tif # patches are shared
        if wanted FCD || wanted FCD+ || wanted Drawn+ || wanted FCD+1Pct; then
            gan_row FCD FCD 32
        fi
        ! wanted FCD64 || gan_row FCD64 "FCD, patches of 64 pixels" 64
        ! wanted TOA || gan_row TOA "FCD, reflectance" 32 --normalize toa
        ! wanted Paper || gan_row Paper "FCD, DN / 65535" 32 --normalize paper
        use "patches/64-fold$fold"
        if to_learn FCD+ || to_learn Drawn+; then
            say "$root/main.py" --mode generate_masks "${data[@]}" --batch_size 64 \
                --experiment_name "FCD-$run" "${masks[@]}" --generated_mask_file "$mask_file" \
                "${extra[@]}"
        fi
        from_masks=("${unet[@]}" --train_mask_file "$mask_file" "${learned[@]}")
        labelled_row FCD+ "$seed" "${from_masks[@]}"
        labelled_row Drawn+ "$seed" "${from_masks[@]}" "${after_drawn[@]}" \
            --model_weights "$drawn"
        plus=$(weights "FCD+-$run")
        if to_learn Second; then
            say "$root/supervised_main.py" --mode generate_masks "${data[@]}" --batch_size 64 \
                --experiment_name "Teacher-$run" --model_weights "$drawn" "${second[@]}" \
                --generated_mask_file "$second_file" "${extra[@]}"
        fi
        labelled_row Second "$seed" "${unet[@]}" --train_mask_file "$second_file" \
            "${learned[@]}" "${after_drawn[@]}" --model_weights "$drawn"
        row FCD+1Pct FCD+1% "$seed" "${tuned[@]}" --keep_ratio 0.01 --freeze_encoder True \
            --model_weights "$plus"
        row Supervised Supervised "$seed" "${unet[@]}"
        map_row CAM CAM "$seed" resnet50
        map_row UCAM U-CAM "$seed" ucam
        if wanted Drawn; then
            test_row supervised_main.py "Drawn scenes alone" "Drawn-$run" --tta flip \
                --threshold image --model_weights "$drawn"
        fi
    done
done
[ -z "$only" ] || exit 0

for seed in $seeds; do
    for ((fold = 0; fold < folds; fold++)); do
        use "patches/64-fold$fold"
        test_by_others FCD+ FCD+
        test_by_others Drawn+ "Drawn, then FCD+"
        test_by_others Second "Second round"
    done
done

names=()
for name in $methods; do
    for seed in $seeds; do
        for ((fold = 0; fold < folds; fold++)); do
            names+=("$(folder "$name-fold$fold-s$seed")")
        done
    done
done
base=()
wanted FCD && base=(--base FCD)
wanted FCD+ && base=(--base FCD+)
step "the table" -m fcd.comparison "${names[@]}" --crops "$crops/patches.csv" "${base[@]}" \
    --output_dir outputs/comparison
echo
echo "table:  $PWD/outputs/comparison/table.csv, table.md"
echo "report: $PWD/outputs/comparison/comparison.html"
