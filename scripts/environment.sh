# shellcheck shell=bash
# Sourced by the other scripts: use the active environment, or make .venv from requirements.txt.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -z "${VIRTUAL_ENV:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" = base ]; then
    venv=$root/.venv
    # The copy of requirements.txt is written last: an interrupted installation is repeated.
    if ! cmp -s "$root/requirements.txt" "$venv/requirements.txt"; then
        if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
            echo "error: python3 is $(python3 --version 2>&1); FCD needs 3.10 or newer" >&2
            exit 2
        fi
        echo "installing requirements.txt into $venv (once; PyTorch is a large download)"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --requirement "$root/requirements.txt"
        cp "$root/requirements.txt" "$venv/requirements.txt"
    fi
    # shellcheck disable=SC1091
    source "$venv/bin/activate"
elif ! python -c 'import sys
from importlib.util import find_spec
sys.exit(not all(map(find_spec, sys.argv[1:])))' torch torchvision segmentation_models_pytorch \
    rasterio albumentations cv2 sklearn matplotlib jinja2 pandas 2>/dev/null; then
    echo "error: the active environment (${VIRTUAL_ENV:-$CONDA_DEFAULT_ENV}) lacks a dependency;" \
        "run 'pip install -r requirements.txt' in it, or deactivate it" >&2
    exit 2
fi
