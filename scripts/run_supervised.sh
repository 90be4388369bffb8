#!/usr/bin/env bash
# Fully supervised, Pre, Pre1% and Rand1%.
#   Supervised  a U-Net on all pixel labels
#   Pre         the same, its encoder pre-trained on the image-level labels
#   Pre1%       that encoder frozen, the decoder trained on 1 % of the pixel labels
#   Rand1%      a U-Net from random weights on 1 % of the pixel labels
# shellcheck source=scripts/rows.sh
source "$(dirname "$0")/rows.sh"

for seed in $seeds; do
    train_row supervised_main.py "Supervised-$seed" "$seed" "${unet[@]}"
    test_row supervised_main.py Supervised "Supervised-$seed"
    if [ ! -f "outputs/Pre1Pct-$seed/results/metrics.json" ]; then
        say "$root/supervised_main.py" --mode train "${data[@]}" --experiment_name "Encoder-$seed" \
            --seed "$seed" "${unet[@]}" --train_encoder_only True "${extra[@]}"
    fi
    encoder=(--encoder_weights "outputs/Encoder-$seed/models/best.pt")
    train_row supervised_main.py "Pre-$seed" "$seed" "${unet[@]}" "${encoder[@]}"
    test_row supervised_main.py Pre "Pre-$seed"
    train_row supervised_main.py "Pre1Pct-$seed" "$seed" "${few[@]}" "${encoder[@]}" \
        --keep_ratio 0.01 --freeze_encoder True
    test_row supervised_main.py Pre1% "Pre1Pct-$seed"
    train_row supervised_main.py "Rand1Pct-$seed" "$seed" "${few[@]}" --keep_ratio 0.01
    test_row supervised_main.py Rand1% "Rand1Pct-$seed"
done
