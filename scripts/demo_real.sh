#!/usr/bin/env bash
# The whole story on your own Landsat-8/9 Level-1 scenes, without any manual label: patches are
# labelled by the scenes' quality bands, FCD and FCD+ are trained on them and mask the scenes.
#
#   scripts/demo_real.sh [--dir DIR] SCENE… [FLAGS…]
#
# SCENE is the folder of a scene (ten bands and BQA or QA_PIXEL; MTL if there is one). DIR
# (default demo-real) is the folder everything is written to. Other flags, which come last, go
# to every training, test and prediction (--seed 1, --device cuda …).
# Run again it continues where it was stopped, or says what is already there.
#
# About 15 minutes on two CPU cores for a crop of 600×600 pixels; whole scenes are cut into about
# as many patches, and take their time only where they are masked. Scenes outside the list of the
# 96 count as one biome; of three or more of a biome a third is held out for the test.
set -euo pipefail

usage="usage: scripts/demo_real.sh [--dir DIR] SCENE… [FLAGS…]"
dir=demo-real scenes=() extra=()
while [ $# -gt 0 ]; do
    case $1 in
        --dir) dir=${2:?--dir needs a folder}; shift 2 ;;
        -*) extra=("$@"); break ;;
        *)
            if [ ! -d "$1" ]; then
                echo "error: $1 is no folder of a scene ($usage)" >&2
                exit 2
            fi
            scenes+=("$(cd "$1" && pwd)")
            shift
            ;;
    esac
done
if [ ${#scenes[@]} -eq 0 ]; then
    echo "error: no scene given ($usage)" >&2
    exit 2
fi

# shellcheck source=scripts/steps.sh
source "$(dirname "$0")/steps.sh"
mkdir -p "$dir/scenes/Unknown"
cd "$dir"

# Links, so that scenes of any place lie below one folder.
for scene in "${scenes[@]}"; do
    cp -rsf "$scene" scenes/Unknown/
done
# As close as needed for about 6,000 patches, whatever the size of the scenes.
stride=$(python -c '
from fcd.landsat.scenes import find_scenes
grids = [scene.check() for scene in find_scenes("scenes")]
pixels = sum(grid.height * grid.width for grid in grids)
print(max(8, round((pixels / 6000) ** 0.5)))')

demo_size 16 2e-4 2000 1000 500 500
unet+=(--batch_size 32 --n_epochs 3 --lr 5e-4 --balance True)

step "1/8 cut the scenes into 32×32 patches, labelled clear or cloudy by their quality bands" \
    "$root/prepare_landsat8_biome.py" --data_path scenes --output_dir patches --labels qa \
    --patch_size 32 --stride "$stride" --clear_below 0.005 --cloudy_above 0.1
split=train
if grep -q ',test$' patches/split.csv; then
    split="test"
fi
step "2/8 train the Fixed-Point GAN on these labels" \
    "$root/main.py" --mode train "${data[@]}" "${gan[@]}" "${extra[@]}" --experiment_name FCD
step "3/8 generate masks of the training scenes" \
    "$root/main.py" --mode generate_masks "${data[@]}" --batch_size 64 "${extra[@]}" \
    --experiment_name FCD
step "4/8 cut the generated masks onto the patches" \
    "$root/prepare_landsat8_biome.py" --data_path scenes --output_dir patches \
    --generated_masks outputs/FCD/results/tifs
step "5/8 train FCD+ on the generated masks" \
    "$root/supervised_main.py" --mode train "${data[@]}" "${unet[@]}" "${extra[@]}" \
    --train_mask_file generated_mask.tif --classifier_head True --experiment_name FCD+
step "6/8 compare FCD with the quality bands of the $split scenes" \
    "$root/main.py" --mode test "${data[@]}" --test_split "$split" --batch_size 64 "${extra[@]}" \
    --experiment_name FCD
step "6/8 compare FCD+ with the quality bands of the $split scenes" \
    "$root/supervised_main.py" --mode test "${data[@]}" --test_split "$split" "${extra[@]}" \
    --experiment_name FCD+
step "7/8 compare the two" \
    -m fcd.comparison outputs/FCD outputs/FCDPlus --output_dir outputs/comparison
step "8/8 mask the scenes with FCD+" \
    "$root/supervised_main.py" --mode predict "${extra[@]}" --experiment_name FCD+ \
    --scenes "${scenes[@]}" --output_dir masks
echo
if [ "$split" = train ]; then
    echo "The figures are of the scenes that were trained on, and their reference is the quality"
    echo "band that labelled them: they say how well the masks agree with it, and no more."
fi
echo "report: $PWD/outputs/comparison/comparison.html"
echo "masks:  $PWD/masks"
echo "curves: tensorboard --logdir=$PWD/runs"
