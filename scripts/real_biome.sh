#!/usr/bin/env bash
# The benchmark of real pixels: crops of real scenes with their manual masks, each tested once, by
# networks that have not seen its scene. It ends with the table: 95 % intervals are over scenes.
#
#   scripts/real_biome.sh DIR [--folds N] [--jobs N] [FLAGS…]
#
# DIR holds images/, masks/ and patches.csv (docs/real-pixels.md); python -m fcd.crops makes such
# from scenes of the Biome data set. Of its scenes one in N (default 3) is tested by each fold.
# --jobs N carries out as many folds at the same time (default 1), each with its share of the CPU's
# cores; what they print is in logs/. Typed again after a stop it goes on where it was.
# Of the flags below, --dir is real-biome and --seeds is 0 by default; --demo, --orig_image_dir and
# --image_dir do not belong here.
#
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

crops="" folds=3 jobs=1 only="" arguments=() defaults=(--seeds 0 --dir real-biome)
while [ $# -gt 0 ]; do
    case $1 in
        --folds) folds=${2:?--folds needs a number}; shift 2 ;;
        --jobs) jobs=${2:?--jobs needs a number}; shift 2 ;;
        --only) only=${2:?--only needs the number of a fold}; shift 2 ;; # how the folds are started
        --demo | --orig_image_dir* | --image_dir* | --dataset*)
            echo "error: $1 does not go with scripts/real_biome.sh, whose data is in DIR" >&2
            exit 2
            ;;
        -h | --help) arguments+=("$1"); crops=none; shift ;;
        --*=*) arguments+=("$1"); shift ;;
        -*) arguments+=("$1" "${2:-}"); shift $(($# > 1 ? 2 : 1)) ;;
        *) crops=$1; shift ;;
    esac
done
if [ "$crops" != none ]; then
    if [ ! -f "$crops/patches.csv" ]; then
        echo "error: ${crops:-no folder given}: a folder with images/, masks/ and patches.csv is" \
            "expected (usage: scripts/real_biome.sh DIR [--folds N] [--jobs N] [FLAGS…])" >&2
        exit 2
    fi
    crops=$(cd "$crops" && pwd)
fi
# shellcheck source=scripts/jobs.sh
source "$here/jobs.sh"
set -- "${defaults[@]}" "${arguments[@]}"
# shellcheck source=scripts/rows.sh
source "$here/rows.sh"

# Folds and runs of other crops, or of as many as before in other folds, would be mixed up.
this="$folds folds of $crops"
if [ -f benchmark.txt ] && [ "$(cat benchmark.txt)" != "$this" ]; then
    echo "error: $PWD holds $(cat benchmark.txt), not $this; give another --dir" >&2
    exit 2
fi
echo "$this" >benchmark.txt

# What each row trains and is tested with. No pixel label anywhere, but in the rows that say so: in
# the threshold of FCD and of the activation maps, the masks FCD+ learns from, and the checkpoints.
demo_size 32 3e-4 1500 750 1000 500
gan+=(--augment d4 --ema 0.03 "${more_gan[@]}")
averaged=(--tta flip --threshold clear)
maps=(--threshold 0.2) # of their maximum: that of CAM's paper
masks=(--tta flip --threshold known --unsure_from 0.8 --unsure_to 1.15)
unet=(--encoder slim18 --normalize stretch --batch_size 16 --augment randomise --ema 0.05)
tuned=("${unet[@]}" --n_epochs 40 --lr 1e-4 "${more_unet[@]}")
of_drawn=("${unet[@]}" --n_epochs 12 --lr 1e-3 "${more_unet[@]}")
unet+=(--n_epochs 5 --lr 1e-3 "${more_unet[@]}")
drawn=(--scenes_per_biome 10 --size 256 --seed 7 --variety wide)

cut_patches() { # CSV FOLDER SIZE STRIDE: patches labelled by the masks
    local tree=$2
    [ -f "$tree/complete" ] && return
    say -m fcd.cut --csv "$1" --output_dir "$tree" --patch_size "$3" --stride "$4" \
        --clear_below 0.005 --cloudy_above 0.1
    mkdir -p "$tree"
    touch "$tree/complete"
}

use() { # FOLDER: the patches of the commands that follow
    data=(--dataset Patches --image_dir "$1" --num_workers 0)
}

draw() { # drawn scenes with the bands of the crops, as patches
    local bands
    [ -f patches/drawn/complete ] && return
    bands=$(python -c '
import sys
from pathlib import Path
from fcd.landsat.rasters import opened
print(",".join(opened(next(Path(sys.argv[1], "images").glob("*.tif"))).descriptions))' "$crops")
    say -m fcd.synthetic --output_dir drawn/scenes "${drawn[@]}"
    say -m fcd.crops --orig_image_dir drawn/scenes --output_dir drawn/crops --crops 1 --size 192 \
        --bands "$bands"
    say -m fcd.folds drawn/crops --output_dir drawn/folds
    cut_patches drawn/folds/all.csv patches/drawn 64 48
}

plus() { # METHOD NAME SEED FLAGS…: train and test a U-Net
    train_row supervised_main.py "$2" "$3" "${@:4}"
    test_row supervised_main.py "$1" "$2" --tta flip
}

if [ -z "$only" ]; then
    step "folds" -m fcd.folds "$crops" --output_dir folds --folds "$folds"
    for ((fold = 0; fold < folds; fold++)); do
        cut_patches "folds/fold-$fold.csv" "patches/32-fold$fold" 32 32
        cut_patches "folds/fold-$fold.csv" "patches/64-fold$fold" 64 32
    done
    draw
    use patches/drawn
    for seed in $seeds; do
        [ -f "outputs/Drawn-s$seed/models/best.pt" ] ||
            train_row supervised_main.py "Drawn-s$seed" "$seed" "${of_drawn[@]}"
    done
    begin
    arguments=("$crops" --folds "$folds" "${arguments[@]}")
    for seed in $seeds; do
        for ((fold = 0; fold < folds; fold++)); do
            start "fold$fold" "$seed" "real_biome.sh --only $fold"
        done
    done
    finish
fi

for seed in $seeds; do
    for fold in $only; do
        run=fold$fold-s$seed
        use "patches/32-fold$fold"
        train_row main.py "FCD-$run" "$seed" "${gan[@]}"
        test_row main.py FCD "FCD-$run" "${averaged[@]}"

        use "patches/64-fold$fold"
        if ! tested "FCD+-$run" >/dev/null || ! tested "Drawn+-$run" >/dev/null; then
            say "$root/main.py" --mode generate_masks "${data[@]}" --batch_size 64 \
                --experiment_name "FCD-$run" "${masks[@]}" "${extra[@]}"
        fi
        generated=("${unet[@]}" --train_mask_file generated_mask.tif)
        plus FCD+ "FCD+-$run" "$seed" "${generated[@]}"
        plus FCD+1% "FCD+1Pct-$run" "$seed" "${tuned[@]}" --keep_ratio 0.01 \
            --freeze_encoder True --model_weights "outputs/FCDPlus-$run/models/best.pt"
        plus Supervised "Supervised-$run" "$seed" "${unet[@]}"
        train_row supervised_main.py "CAM-$run" "$seed" "${unet[@]}" --network resnet50
        test_row supervised_main.py CAM "CAM-$run" "${maps[@]}"
        train_row supervised_main.py "UCAM-$run" "$seed" "${unet[@]}" --network ucam
        test_row supervised_main.py U-CAM "UCAM-$run" "${maps[@]}"
        test_row supervised_main.py "Drawn scenes alone" "Drawn-$run" --tta flip \
            --model_weights "outputs/Drawn-s$seed/models/best.pt"
        plus "Drawn and FCD+" "Drawn+-$run" "$seed" "${generated[@]}" \
            --drawn_patches patches/drawn --model_weights "outputs/Drawn-s$seed/models/best.pt"
    done
done
[ -z "$only" ] || exit 0

names=()
for name in FCD FCDPlus FCDPlus1Pct Supervised CAM UCAM Drawn DrawnPlus; do
    for seed in $seeds; do
        for ((fold = 0; fold < folds; fold++)); do
            names+=("outputs/$name-fold$fold-s$seed")
        done
    done
done
step "the table" -m fcd.comparison "${names[@]}" --crops "$crops/patches.csv" \
    --output_dir outputs/comparison
echo
echo "table:  $PWD/outputs/comparison/table.csv, table.md"
echo "report: $PWD/outputs/comparison/comparison.html"
