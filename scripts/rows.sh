# shellcheck shell=bash
# shellcheck disable=SC2034  # the scripts that source this one use its variables
# Sourced by the run_*.sh scripts: their arguments, their data, and how one row is carried out.
#
#   --demo           demo size: synthetic scenes, small networks, a CPU is enough
#   --seeds "0 1 2"  one run of each row a seed (default: 0 1 2)
#   --dir DIR        folder of data, outputs and runs (default: the repository; demo: demo-table)
#   --orig_image_dir DIR, --image_dir DIR   the scenes and the patches, if they are elsewhere
#   --gan "FLAGS"    further flags of every training of a GAN
#   --unet "FLAGS"   further flags of every supervised training
#   other flags      go to every training and test (--device cuda:1 …)
#
# A run that is tested already is skipped; one that was stopped goes on.
set -euo pipefail

usage() { # what this script and this file say of themselves
    local file
    for file in "$0" "${BASH_SOURCE[0]}"; do
        sed -n -e '/^$/q' -e '/^set /q' -e '/^#!/d' -e '/shellcheck/d' -e 's/^# \{0,1\}//p' "$file"
    done
}

seeds="0 1 2" dir="" scenes="" patches="" demo=false extra=() more_gan=() more_unet=()
while [ $# -gt 0 ]; do
    case $1 in
        --demo) demo=true; shift ;;
        --seeds) seeds=${2:?--seeds needs numbers such as \"0 1 2\"}; shift 2 ;;
        --dir) dir=${2:?--dir needs a folder}; shift 2 ;;
        --gan) read -ra more_gan <<<"${2:?--gan needs flags}"; shift 2 ;;
        --unet) read -ra more_unet <<<"${2:?--unet needs flags}"; shift 2 ;;
        --orig_image_dir) scenes=$(realpath -m "${2:?--orig_image_dir needs a folder}"); shift 2 ;;
        --image_dir) patches=$(realpath -m "${2:?--image_dir needs a folder}"); shift 2 ;;
        -h | --help) usage; exit ;;
        --seed | --seed=* | --experiment_name* | --method* | --mode* | --config*)
            echo "error: $1 is different in each run: the scripts give it (seeds: --seeds \"0 1 2\")" >&2
            exit 2
            ;;
        *) extra+=("$1"); shift ;;
    esac
done
if $demo && [ -n "$scenes$patches" ]; then
    echo "error: --demo draws its own scenes; leave --orig_image_dir and --image_dir out" >&2
    exit 2
fi

# shellcheck source=scripts/steps.sh
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

# What a row trains with: gan (main.py); unet, tuned (trained weights, 1 % of the patches) and few
# (1 % of the patches, an untrained decoder, which takes more steps) (supervised_main.py).
if $demo; then
    dir=${dir:-$root/demo-table}
    mkdir -p "$dir"
    cd "$dir"
    demo_size 32 3e-4 2600 900 1000 200
    tuned=("${unet[@]}" --batch_size 32 --n_epochs 10 --lr 1e-4)
    few=("${unet[@]}" --batch_size 8 --n_epochs 15 --lr 5e-4)
    unet+=(--batch_size 32 --n_epochs 3 --lr 5e-4)
    masks=(--data_path scenes --output_dir patches)
    if [ ! -f patches/complete ]; then
        say -m fcd.synthetic --output_dir scenes
        say "$root/prepare_landsat8_biome.py" "${masks[@]}" --patch_size 32
        touch patches/complete
    fi
else
    mkdir -p "${dir:-$root}"
    cd "${dir:-$root}"
    data=()
    gan=()
    unet=()
    tuned=(--lr 1e-5)
    few=()
    masks=()
    if [ -n "$scenes" ]; then
        data+=(--orig_image_dir "$scenes")
        masks+=(--data_path "$scenes")
    fi
    if [ -n "$patches" ]; then
        data+=(--image_dir "$patches")
        masks+=(--output_dir "$patches")
    fi
fi
gan+=("${more_gan[@]}")
unet+=("${more_unet[@]}")
tuned+=("${more_unet[@]}")
few+=("${more_unet[@]}")

folder() { # NAME: the folder of an experiment
    echo "outputs/${1//+/Plus}"
}

weights() { # NAME: the checkpoint of an experiment
    echo "$(folder "$1")/models/best.pt"
}

tested() { # NAME
    if [ -f "$(folder "$1")/results/metrics.json" ]; then
        echo "$1 is tested already"
    else
        return 1
    fi
}

test_row() { # SCRIPT METHOD NAME FLAGS…: score the test scenes
    local script=$1 method=$2 name=$3
    shift 3
    tested "$name" || say "$root/$script" --mode test "${data[@]}" --batch_size 64 \
        --experiment_name "$name" --method "$method" "$@" "${extra[@]}"
}

train_row() { # SCRIPT NAME SEED FLAGS…: train one run
    local script=$1 name=$2 seed=$3
    shift 3
    tested "$name" >/dev/null || say "$root/$script" --mode train "${data[@]}" \
        --experiment_name "$name" --seed "$seed" "$@" "${extra[@]}"
}

masked() { # FCD NAME FILE FLAGS…: masks of experiment FCD, cut onto the patches as FILE, for NAME
    local fcd=$1 name=$2 file=$3
    shift 3
    tested "$name" >/dev/null && return
    say "$root/main.py" --mode generate_masks "${data[@]}" --batch_size 64 \
        --experiment_name "$fcd" "$@" "${extra[@]}"
    say "$root/prepare_landsat8_biome.py" "${masks[@]}" \
        --generated_masks "outputs/$fcd/results/tifs" --generated_mask_file "$file"
}
