#!/usr/bin/env bash
# The oldest and the newest releases that requirements.txt allows, each in an environment of its
# own, and a short run of every command in both.
#
#   scripts/check_dependencies.sh [oldest|newest]…      (default: both)
#
# PYTHON (default python3.11) makes the environments; TMPDIR holds them, about 6 GB each.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3.11}
[ $# -gt 0 ] || set -- oldest newest
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

for end in "$@"; do
    case $end in
        # >=2,<3 becomes ==2.0.*, >=1.3.11 becomes ==1.3.11.*; what these need is left to pip.
        oldest) sed -E 's/>=([0-9.]+)[^# ]*/==\1.*/; s/==([0-9]+)\.\*/==\1.0.*/' \
            "$root/requirements.txt" >"$place/$end.txt" ;;
        newest) cp "$root/requirements.txt" "$place/$end.txt" ;;
        *) echo "error: $end is neither oldest nor newest" >&2; exit 2 ;;
    esac
    echo "── $end"
    "$python" -m venv "$place/$end"
    "$place/$end/bin/pip" install --quiet --requirement "$place/$end.txt"
    "$place/$end/bin/pip" freeze | grep -iE '^(torch|torchvision|numpy|rasterio|segmentation)'
    (cd "$root" && "$place/$end/bin/python" -m pytest -q tests/whole/test_pipeline.py tests/training/test_resume.py \
        tests/whole/test_faults.py tests/test_model.py tests/landsat/test_scenes.py)
    rm -rf "${place:?}/$end"
done
