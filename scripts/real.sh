# shellcheck shell=bash
# shellcheck disable=SC2034  # the scripts that source this one use its variables
# Sourced, with the flags of rows.sh, by the scripts that learn from crops of real scenes ($crops):
# with which settings each network is trained and tested, and how patches come about.
if [[ " $* " != *" -h "* && " $* " != *" --help "* ]]; then
    if [ ! -f "$crops/patches.csv" ]; then
        echo "error: ${crops:-no folder given}: a folder with images/, masks/ and patches.csv is" \
            "expected (bash scripts/$(basename "$0") --help)" >&2
        exit 2
    fi
    crops=$(cd "$crops" && pwd)
fi
# shellcheck source=scripts/rows.sh
source "$here/rows.sh"

# No pixel label anywhere, but in the rows that say so: in the threshold of FCD and of the activation
# maps, the masks FCD+ learns from, and the checkpoints.
demo_size 32 3e-4 1500 750 1000 500
gan+=(--augment d4 --ema 0.03 "${more_gan[@]}")
of_clear=(--threshold clear)
maps=(--threshold 0.2) # of their maximum: that of CAM's paper
masks=(--threshold known --unsure_from 0.8 --unsure_to 1.15)
# What a second round learns: where the first, tile by tile, is not near the threshold.
second=(--tta flip --overlap 0 --threshold image --unsure_from 0.6 --unsure_to 1.4)
# FCD+ averages its weights over much of the training: what it makes of ground that it has never seen
# differs from one step to the next.
unet=(--encoder slim18 --normalize root --batch_size 8 --augment randomise --ema 0.25 --amp auto)
tuned=("${unet[@]}" --n_epochs 40 --lr 1e-4 "${more_unet[@]}")
unet+=(--n_epochs 10 --lr 1e-3 "${more_unet[@]}")
learned=(--least_cloud 0.1)
of_drawn=(--drawn True --batch_size 32 --ema 0.1 --n_epochs 6 --lr 2e-3 "${more_unet[@]}") # of 16,000 patches
# Few real scenes teach a network of drawn ones to forget the others: overcast, snow.
after_drawn=(--rehearse patches/drawn --batch_size 16 --n_epochs 4 --lr 5e-4 --ema 0.5
    "${more_unet[@]}")
of_maps=("${unet[@]}" --n_epochs 3 "${more_unet[@]}")
drawing=(--scenes_per_biome 240 --size 256 --seed 7 --variety wide)

cut_patches() { # CSV FOLDER SIZE STRIDE: patches labelled by the masks
    local tree=$2
    [ -f "$tree/complete" ] && return
    say -m fcd.cut --csv "$1" --output_dir "$tree" --patch_size "$3" --stride "$4" \
        --clear_below 0.005 --cloudy_above 0.1
    mkdir -p "$tree"
    touch "$tree/complete"
}

use() { # FOLDER: the patches of the commands that follow; DN 0 is fill, which no patch holds
    data=(--dataset Patches --image_dir "$1" --num_workers 0 --nodata 0)
}

bands_of_crops() {
    python -c '
import sys
from pathlib import Path
from fcd.landsat.rasters import opened
print(",".join(opened(next(Path(sys.argv[1], "images").glob("*.tif"))).descriptions))' "$crops"
}

draw() { # drawn scenes with the bands of the crops, as patches
    local bands
    [ -f patches/drawn/complete ] && return
    bands=$(bands_of_crops)
    say -m fcd.synthetic --output_dir drawn/scenes "${drawing[@]}"
    say -m fcd.crops --orig_image_dir drawn/scenes --output_dir drawn/crops --crops 1 --size 192 \
        --bands "$bands"
    say -m fcd.folds drawn/crops --output_dir drawn/folds
    cut_patches drawn/folds/all.csv patches/drawn 64 48
}
