#!/usr/bin/env bash
# FCD, the same without any pixel label, and StarGAN (FCD without its same-domain half).
# shellcheck source=scripts/rows.sh
source "$(dirname "$0")/rows.sh"

for seed in $seeds; do
    train_row main.py "FCD-$seed" "$seed" "${gan[@]}"
    test_row main.py FCD "FCD-$seed"
    # The last checkpoint and the threshold of the clear patches: neither takes a pixel label.
    test_row main.py "FCD, no pixel label" "FCD-unlabelled-$seed" \
        --model_weights "outputs/FCD-$seed/models/latest.pt" --threshold clear
    train_row main.py "StarGAN-$seed" "$seed" "${gan[@]}" --same_domain False
    test_row main.py StarGAN "StarGAN-$seed"
done
