#!/usr/bin/env bash
# FCD+ (a U-Net on the masks of FCD), the same without any pixel label, and FCD+1% (FCD+ fine-tuned
# on 1 % of the pixel labels).
# shellcheck source=scripts/rows.sh
source "$(dirname "$0")/rows.sh"

masked() { # FCD NAME FILE FLAGS…: masks of experiment FCD, cut onto the patches as FILE, for NAME
    local fcd=$1 name=$2 file=$3
    shift 3
    tested "$name" >/dev/null && return
    say "$root/main.py" --mode generate_masks "${data[@]}" --batch_size 64 \
        --experiment_name "$fcd" "$@" "${extra[@]}"
    say "$root/prepare_landsat8_biome.py" "${masks[@]}" \
        --generated_masks "outputs/$fcd/results/tifs" --generated_mask_file "$file"
}

for seed in $seeds; do
    train_row main.py "FCD-$seed" "$seed" "${gan[@]}"
    masked "FCD-$seed" "FCD+-$seed" "generated_mask_$seed.tif"
    train_row supervised_main.py "FCD+-$seed" "$seed" "${unet[@]}" \
        --train_mask_file "generated_mask_$seed.tif" --classifier_head True
    test_row supervised_main.py FCD+ "FCD+-$seed"
    train_row supervised_main.py "FCD+1Pct-$seed" "$seed" "${tuned[@]}" --keep_ratio 0.01 \
        --freeze_encoder True --model_weights "outputs/FCDPlus-$seed/models/best.pt"
    test_row supervised_main.py FCD+1% "FCD+1Pct-$seed"
    # Masks of the last checkpoint by the clear patches' threshold; the U-Net is chosen by image-level
    # labels.
    masked "FCD-unlabelled-$seed" "FCD+-unlabelled-$seed" "generated_mask_unlabelled_$seed.tif" \
        --model_weights "outputs/FCD-$seed/models/latest.pt" --threshold clear
    train_row supervised_main.py "FCD+-unlabelled-$seed" "$seed" "${unet[@]}" --select image \
        --train_mask_file "generated_mask_unlabelled_$seed.tif" --classifier_head True
    test_row supervised_main.py "FCD+, no pixel label" "FCD+-unlabelled-$seed"
done
