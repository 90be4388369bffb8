#!/usr/bin/env bash
# The whole story on synthetic scenes: the commands of a paper run, with small settings.
#
#   scripts/demo.sh [--seed N] [--dir DIR]
#
# N (default 0) seeds the training; DIR (default demo) is the folder everything is written to.
# Run again it continues where it was stopped, or says what is already there.
set -euo pipefail

seed=0
dir=demo
while [ $# -gt 0 ]; do
    case $1 in
        --seed) seed=${2:?--seed needs a number}; shift 2 ;;
        --dir) dir=${2:?--dir needs a folder}; shift 2 ;;
        *) echo "error: unknown argument $1 (usage: scripts/demo.sh [--seed N] [--dir DIR])" >&2; exit 2 ;;
    esac
done

# shellcheck source=scripts/steps.sh
source "$(dirname "$0")/steps.sh"
mkdir -p "$dir"
cd "$dir"

demo_size 32 5e-4 3000 1000 200 200
data+=(--seed "$seed")
# Scores and FCD+ vary less from seed to seed, and it learns no doubtful pixel: docs/real-pixels.md.
gan+=(--ema 0.03)
masks=(--unsure_from 0.8 --unsure_to 1.15 --tta flip)
unet+=(--batch_size 32)

step "1/9 draw 48 synthetic scenes of 8 biomes" \
    -m fcd.synthetic --output_dir scenes
step "2/9 cut them into 32×32 patches with image-level labels" \
    "$root/prepare_landsat8_biome.py" --data_path scenes --output_dir patches --patch_size 32
step "3/9 train the Fixed-Point GAN on the image-level labels" \
    "$root/main.py" --mode train "${data[@]}" "${gan[@]}" --experiment_name FCD
step "4/9 generate masks of the training scenes" \
    "$root/main.py" --mode generate_masks "${data[@]}" --batch_size 64 "${masks[@]}" \
    --experiment_name FCD
step "5/9 cut the generated masks onto the patches" \
    "$root/prepare_landsat8_biome.py" --data_path scenes --output_dir patches \
    --generated_masks outputs/FCD/results/tifs
step "6/9 train FCD+ on the generated masks" \
    "$root/supervised_main.py" --mode train "${data[@]}" "${unet[@]}" --n_epochs 4 --lr 5e-4 \
    --ema 0.1 --augment d4 --train_mask_file generated_mask.tif --classifier_head True \
    --experiment_name FCD+
step "7/9 fine-tune it on the pixel labels of 1 % of the patches" \
    "$root/supervised_main.py" --mode train "${data[@]}" "${unet[@]}" --n_epochs 10 --lr 1e-4 \
    --keep_ratio 0.01 --freeze_encoder True --model_weights outputs/FCDPlus/models/best.pt \
    --experiment_name FCD+1Pct
step "8/9 test FCD on the held-out scenes" \
    "$root/main.py" --mode test "${data[@]}" --batch_size 64 --experiment_name FCD
for name in FCD+ FCD+1Pct; do
    step "8/9 test $name on the held-out scenes" \
        "$root/supervised_main.py" --mode test "${data[@]}" --experiment_name "$name"
done
step "9/9 compare" \
    -m fcd.comparison outputs/FCD outputs/FCDPlus outputs/FCDPlus1Pct --output_dir outputs/comparison
echo
echo "report: $PWD/outputs/comparison/comparison.html"
echo "curves: tensorboard --logdir=$PWD/runs"
