#!/usr/bin/env bash
# Everything that a GPU has to show, in at most 8 minutes: gpu.json and gpu.md in DIR.
#
#   bash benchmarks/gpu.sh [--output DIR] [flags of python -m benchmarks.gpu]
#   bash benchmarks/gpu.sh --carry 3.12 [more packages]
#
# Needs this checkout and a Python with PyTorch. What else is missing there is taken from the wheels
# in .gpu/, where the second form puts them for that release of Python (x86-64), on a machine that
# reaches a package index. Without a CUDA device it runs on the CPU; --size tiny takes a minute.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
output=$PWD
wheels=$root/.gpu
# Of what requirements.txt asks for and that needs in turn: what images with PyTorch often lack.
packages=(rasterio affine cligj click-plugins segmentation-models-pytorch albumentations==2.0.8
    albucore==0.0.24 simsimd stringzilla) # the albucore that this albumentations asks for

if [ "${1:-}" = --carry ]; then
    version=${2:?--carry needs the release of Python, such as 3.12}
    platforms=()
    for glibc in 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
    fetch=(python3 -m pip download --quiet --only-binary=:all: --implementation cp
        --python-version "$version" "${platforms[@]}" --platform manylinux2014_x86_64
        --dest "$wheels")
    "${fetch[@]}" --no-deps "${packages[@]}" "${@:3}"
    "${fetch[@]}" pydantic # with what it needs, which is small and goes with one release alone
    du -sh "$wheels"
    exit
fi
if [ "${1:-}" = --output ]; then
    output=${2:?--output needs a folder}
    shift 2
fi
mkdir -p "$output"
if [ -d "$wheels" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    python3 -m pip install --quiet --no-index --no-deps --target "$site" "$wheels"/*.whl
    export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$site"
fi
export NO_ALBUMENTATIONS_UPDATE=1
cd "$root"
timeout 480 python3 -m benchmarks.gpu --json "$output/gpu.json" --markdown "$output/gpu.md" "$@"
