#!/usr/bin/env bash
# The benchmark of real pixels: crops of real scenes with their manual masks, each tested once, by
# networks that have not seen its scene. It ends with the table: 95 % intervals are over scenes.
#
#   scripts/real_biome.sh DIR [--folds N] [FLAGS…]
#
# DIR holds images/, masks/ and patches.csv (docs/real-pixels.md); python -m fcd.crops makes such
# from scenes of the Biome data set. Of its scenes one in N (default 4) is tested by each fold.
# Of the flags below, --dir is real-biome and --seeds is 0 by default; --demo, --orig_image_dir and
# --image_dir do not belong here.
#
set -euo pipefail

crops="" folds=4 arguments=(--seeds 0) out=real-biome
while [ $# -gt 0 ]; do
    case $1 in
        --folds) folds=${2:?--folds needs a number}; shift 2 ;;
        --dir) out=${2:?--dir needs a folder}; shift 2 ;;
        --demo | --orig_image_dir* | --image_dir* | --dataset*)
            echo "error: $1 does not go with scripts/real_biome.sh, whose data is in DIR" >&2
            exit 2
            ;;
        -h | --help) arguments+=("$1"); crops=none; shift ;;
        *)
            if [ -z "$crops" ] && [[ $1 != -* ]]; then
                crops=$1
            else
                arguments+=("$1")
            fi
            shift
            ;;
    esac
done
if [ "$crops" != none ] && [ ! -f "$crops/patches.csv" ]; then
    echo "error: ${crops:-no folder given}: a folder with images/, masks/ and patches.csv is" \
        "expected (usage: scripts/real_biome.sh DIR [--folds N] [FLAGS…])" >&2
    exit 2
fi
if [ "$crops" != none ]; then
    crops=$(cd "$crops" && pwd)
    mkdir -p "$out"
    arguments+=(--dir "$out")
fi
set -- "${arguments[@]}"
# shellcheck source=scripts/rows.sh
source "$(dirname "$0")/rows.sh"

# Folds and runs of other crops, or of as many as before in other folds, would be mixed up.
this="$folds folds of $crops"
if [ -f benchmark.txt ] && [ "$(cat benchmark.txt)" != "$this" ]; then
    echo "error: $PWD holds $(cat benchmark.txt), not $this; give another --dir" >&2
    exit 2
fi
echo "$this" >benchmark.txt

# --- what each row trains and is tested with ---------------------------------------------------
# No pixel label anywhere, but in the rows that say so: the threshold of FCD and of the activation
# maps, that of the masks FCD+ learns from, and the choice of checkpoints.
demo_size 32 3e-4 3000 1000 1000 1000
gan+=(--select image "${more_gan[@]}")
threshold=(--threshold otsu)
mask_threshold=(--threshold otsu)
unet+=(--batch_size 32 --select image)
tuned=("${unet[@]}" --n_epochs 10 --lr 1e-4 "${more_unet[@]}")
unet+=(--n_epochs 10 --lr 5e-4 "${more_unet[@]}")
drawn=(--scenes_per_biome 6 --size 384 --seed 0)

cut_patches() { # CSV FOLDER SIZE: patches at stride 32, labelled by the masks
    local tree=$2
    [ -f "$tree/complete" ] && return
    say -m fcd.cut --csv "$1" --output_dir "$tree" --patch_size "$3" --stride 32 \
        --clear_below 0.005 --cloudy_above 0.1
    mkdir -p "$tree"
    touch "$tree/complete"
}

use() { # FOLDER: the patches of the commands that follow
    data=(--dataset Patches --image_dir "$1" --num_workers 0)
}

draw() { # drawn scenes with the bands of the crops, as patches
    [ -f patches/drawn/complete ] && return
    local bands
    bands=$(python -c '
import sys
from fcd.patches.crops import image_path, read_list
from fcd.landsat.rasters import opened
from pathlib import Path
folder = Path(sys.argv[1])
with opened(image_path(folder, read_list(folder / "patches.csv")[0])) as dataset:
    print(",".join(filter(None, dataset.descriptions)))' "$crops")
    say -m fcd.synthetic --output_dir drawn/scenes "${drawn[@]}"
    say -m fcd.crops --orig_image_dir drawn/scenes --output_dir drawn/crops --crops 2 --size 128 \
        --bands "$bands"
    say -m fcd.folds drawn/crops --output_dir drawn/folds
    cut_patches drawn/folds/all.csv patches/drawn 64
}

step "folds" -m fcd.folds "$crops" --output_dir folds --folds "$folds"
for ((fold = 0; fold < folds; fold++)); do
    cut_patches "folds/fold-$fold.csv" "patches/32-fold$fold" 32
    cut_patches "folds/fold-$fold.csv" "patches/64-fold$fold" 64
done
draw

for seed in $seeds; do
    use patches/drawn
    train_row supervised_main.py "Drawn-s$seed" "$seed" "${unet[@]}"
    drawn_weights=(--model_weights "outputs/Drawn-s$seed/models/latest.pt")
    for ((fold = 0; fold < folds; fold++)); do
        run=fold$fold-s$seed
        use "patches/32-fold$fold"
        train_row main.py "FCD-$run" "$seed" "${gan[@]}"
        test_row main.py FCD "FCD-$run" "${threshold[@]}"

        use "patches/64-fold$fold"
        if ! tested "FCD+-$run" >/dev/null || ! tested "Drawn+-$run" >/dev/null; then
            say "$root/main.py" --mode generate_masks "${data[@]}" --batch_size 64 \
                --experiment_name "FCD-$run" "${mask_threshold[@]}" "${extra[@]}"
        fi
        generated=(--train_mask_file generated_mask.tif --classifier_head True)
        train_row supervised_main.py "FCD+-$run" "$seed" "${unet[@]}" "${generated[@]}"
        test_row supervised_main.py FCD+ "FCD+-$run"
        train_row supervised_main.py "FCD+1Pct-$run" "$seed" "${tuned[@]}" --keep_ratio 0.01 \
            --freeze_encoder True --model_weights "outputs/FCDPlus-$run/models/best.pt"
        test_row supervised_main.py FCD+1% "FCD+1Pct-$run"
        train_row supervised_main.py "Supervised-$run" "$seed" "${unet[@]}"
        test_row supervised_main.py Supervised "Supervised-$run"
        train_row supervised_main.py "CAM-$run" "$seed" "${unet[@]}" --network resnet50
        test_row supervised_main.py CAM "CAM-$run" "${threshold[@]}"
        train_row supervised_main.py "UCAM-$run" "$seed" "${unet[@]}" --network ucam
        test_row supervised_main.py U-CAM "UCAM-$run" "${threshold[@]}"
        test_row supervised_main.py "Drawn scenes alone" "Drawn-$run" "${drawn_weights[@]}"
        train_row supervised_main.py "Drawn+-$run" "$seed" "${unet[@]}" "${generated[@]}" \
            "${drawn_weights[@]}"
        test_row supervised_main.py "Drawn, then FCD+" "Drawn+-$run"
    done
done

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
