#!/usr/bin/env bash
# Starter weights: a U-Net with thermal bands and one without, of drawn scenes, with a threshold by the
# image-level labels of crops of real scenes. No pixel label anywhere. They end in weights/ of --dir.
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
cut_patches folds/all.csv patches/64-all 64 32
draw
mkdir -p weights

make() { # NAME BANDS: learn drawn scenes; which threshold parts clear from cloudy patches of real ones
    use patches/drawn
    train_row supervised_main.py "$1" "$seeds" "${unet[@]}" "${of_drawn[@]}" --train_bands "$2"
    use patches/64-all
    say "$root/supervised_main.py" --mode pack "${data[@]}" --batch_size 64 \
        --experiment_name "$1" --threshold image "${extra[@]}"
    cp "outputs/$1/models/best-packed.pt" "weights/$1.pt"
}

make starter-thermal B2-B7,B9,B10,SUN
make starter B2-B7,B9,SUN
echo
echo "weights: $PWD/weights (--model_weights $PWD/weights)"
