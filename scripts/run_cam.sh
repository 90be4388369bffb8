#!/usr/bin/env bash
# CAM, Grad-CAM, Grad-CAM++ (three maps of one ResNet-50) and U-CAM.
# shellcheck source=scripts/rows.sh
source "$(dirname "$0")/rows.sh"

for seed in $seeds; do
    train_row supervised_main.py "CAM-$seed" "$seed" "${unet[@]}" --network resnet50
    test_row supervised_main.py CAM "CAM-$seed"
    weights=(--model_weights "outputs/CAM-$seed/models/best.pt")
    test_row supervised_main.py Grad-CAM "GradCAM-$seed" "${weights[@]}" --cam_method gradcam
    test_row supervised_main.py Grad-CAM++ "GradCAMpp-$seed" "${weights[@]}" --cam_method gradcampp
    train_row supervised_main.py "UCAM-$seed" "$seed" "${unet[@]}" --network ucam
    test_row supervised_main.py U-CAM "UCAM-$seed"
done
