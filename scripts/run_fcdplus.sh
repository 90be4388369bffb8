#!/usr/bin/env bash
# FCD+ (a U-Net on the masks of FCD), the same without any pixel label, and FCD+1% (FCD+ fine-tuned
# on 1 % of the pixel labels).
# shellcheck source=scripts/rows.sh
source "$(dirname "$0")/rows.sh"

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
