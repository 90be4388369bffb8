#!/usr/bin/env bash
# FCD+ (a U-Net on the masks of FCD) and FCD+1% (fine-tuned on 1 % of the pixel labels).
# shellcheck source=scripts/rows.sh
source "$(dirname "$0")/rows.sh"

for seed in $seeds; do
    train_row main.py "FCD-$seed" "$seed" "${gan[@]}"
    if ! tested "FCD+-$seed"; then
        say "$root/main.py" --mode generate_masks "${data[@]}" --batch_size 64 \
            --experiment_name "FCD-$seed" "${extra[@]}"
        say "$root/prepare_landsat8_biome.py" "${masks[@]}" \
            --generated_masks "outputs/FCD-$seed/results/tifs" \
            --generated_mask_file "generated_mask_$seed.tif"
    fi
    train_row supervised_main.py "FCD+-$seed" "$seed" "${unet[@]}" \
        --train_mask_file "generated_mask_$seed.tif" --classifier_head True
    test_row supervised_main.py FCD+ "FCD+-$seed"
    train_row supervised_main.py "FCD+1Pct-$seed" "$seed" "${tuned[@]}" --keep_ratio 0.01 \
        --freeze_encoder True --model_weights "outputs/FCDPlus-$seed/models/best.pt"
    test_row supervised_main.py FCD+1% "FCD+1Pct-$seed"
done
