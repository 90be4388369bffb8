#!/usr/bin/env bash
# Starter weights: a U-Net with thermal bands and one without, from drawn scenes and the image-level
# labels of crops of real scenes. No pixel label anywhere. They end in weights/ of --dir.
#
#   scripts/starter_weights.sh DIR [FLAGS…]
#
# DIR holds images/, masks/ and patches.csv (docs/real-pixels.md), in the bands B2-B7,B9,B10; of the
# masks only what share of a patch is cloud is used. Of the flags below, --dir is starter-weights
# and --seeds is 0 by default (one seed); --demo, --orig_image_dir and --image_dir do not belong
# here. Typed again after a stop it goes on where it was.
#
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
crops=${1:-}
[[ $crops == -* ]] || shift $(($# > 0))
set -- --seeds 0 --dir starter-weights "$@"
# shellcheck source=scripts/real.sh
source "$here/real.sh"

step "cut the crops" -m fcd.folds "$crops" --output_dir folds
cut_patches folds/all.csv patches/32-all 32 32
cut_patches folds/all.csv patches/64-all 64 32
draw

use patches/32-all
train_row main.py FCD "$seeds" "${gan[@]}"
say "$root/main.py" --mode generate_masks "${data[@]}" --batch_size 64 --experiment_name FCD \
    "${of_clear[@]}" "${extra[@]}" # the threshold that is known then
use patches/64-all
say "$root/main.py" --mode generate_masks "${data[@]}" --batch_size 64 --experiment_name FCD \
    "${masks[@]}" "${extra[@]}"
train_row supervised_main.py FCD+ "$seeds" "${unet[@]}" --train_mask_file generated_mask.tif \
    "${learned[@]}"

on_drawn() { # NAME BANDS: a U-Net that has learned drawn scenes alone
    use patches/drawn
    train_row supervised_main.py "Drawn-$1" "$seeds" "${unet[@]}" --train_bands "$2" "${of_drawn[@]}"
    use patches/64-all
}

make() { # NAME BANDS: begin with what drawn scenes have taught, learn the masks of the second round
    train_row supervised_main.py "$1" "$seeds" "${unet[@]}" --train_bands "$2" "${learned[@]}" \
        --train_mask_file second_mask.tif "${after_drawn[@]}" \
        --model_weights "$(weights "Drawn-$1")"
    # 0.3 parts clear from cloudy patches of scenes that were not learned from: docs/weights.md.
    say "$root/supervised_main.py" --mode pack "${data[@]}" --batch_size 64 \
        --experiment_name "$1" --threshold 0.3 "${extra[@]}"
    mkdir -p weights
    cp "outputs/$1/models/best-packed.pt" "weights/$1.pt"
}

# FCD+ and drawn scenes err on different ground; their mean, with all bands, teaches both kinds.
all=B2-B7,B9,B10,SUN
on_drawn starter-thermal "$all"
say "$root/supervised_main.py" --mode generate_masks "${data[@]}" --batch_size 64 \
    --experiment_name FCD+ --mean_with "$(weights Drawn-starter-thermal)" "${second[@]}" \
    --generated_mask_file second_mask.tif "${extra[@]}"
make starter-thermal "$all"
on_drawn starter B2-B7,B9,SUN
make starter B2-B7,B9,SUN
echo
echo "weights: $PWD/weights (--model_weights $PWD/weights)"
