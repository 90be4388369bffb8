# shellcheck shell=bash
# shellcheck disable=SC2034  # the scripts that source this one use its variables
# Sourced by demo.sh, demo_real.sh and rows.sh: the environment, how a command is told and carried
# out, and the settings of demo size.
# shellcheck source=scripts/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
export PYTHONPATH=$root

say() { # ARGUMENTS…: print and carry out a command
    echo
    _carry_out "$@"
}

step() { # TITLE ARGUMENTS…: the same with a title
    echo
    echo "── $1"
    shift
    _carry_out "$@"
}

_carry_out() {
    echo "\$ python ${*/#"$root/"/}"
    python "$@"
}

demo_size() { # D_CONV_DIM LR NUM_ITERS NUM_ITERS_DECAY SAMPLE_STEP MODEL_SAVE_STEP
    data=(--image_dir patches --orig_image_dir scenes --num_workers 0)
    gan=(--image_size 32 --g_conv_dim 16 --g_repeat_num 3 --d_conv_dim "$1" --d_repeat_num 4
        --n_critic 2 --g_lr "$2" --d_lr "$2" --num_iters "$3" --num_iters_decay "$4"
        --sample_step "$5" --model_save_step "$6" --normalize stretch --balance True)
    unet=(--encoder resnet18 --normalize stretch)
}
