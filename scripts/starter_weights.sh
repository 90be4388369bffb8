#!/usr/bin/env bash
# Starter weights, into weights/: a U-Net with thermal bands and one without, from drawn scenes and
# the image-level labels of crops of real scenes. No pixel label anywhere. Those that lie there are of
# an earlier recipe: docs/weights.md.
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

# Drawn scenes teach grounds and skies that the real ones lack; real ones, first under other suns,
# then as they are, teach what clouds look like.
make() { # NAME BANDS
    use patches/drawn
    train_row supervised_main.py "Drawn-$1" "$seeds" "${unet[@]}" --train_bands "$2" "${of_drawn[@]}"
    use patches/64-all
    local real=("${unet[@]}" --train_bands "$2" --train_mask_file generated_mask.tif
        "${learned[@]}" "${after_drawn[@]}")
    train_row supervised_main.py "$1-randomised" "$seeds" "${real[@]}" --n_epochs 8 \
        "${more_unet[@]}" --model_weights "outputs/Drawn-$1/models/best.pt"
    train_row supervised_main.py "$1" "$seeds" "${real[@]}" --augment d4 --ema 0.05 \
        "${more_unet[@]}" --model_weights "outputs/$1-randomised/models/best.pt"
    say "$root/supervised_main.py" --mode pack "${data[@]}" --batch_size 64 \
        --experiment_name "$1" --threshold image "${extra[@]}"
    mkdir -p "$root/weights"
    cp "outputs/$1/models/best-packed.pt" "$root/weights/$1.pt"
}
make starter-thermal B2-B7,B9,B10
make starter B2-B7,B9
echo
echo "weights: $root/weights"
