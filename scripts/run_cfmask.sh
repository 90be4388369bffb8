#!/usr/bin/env bash
# The quality band that comes with the scenes: nothing is trained, so there is one run.
# shellcheck source=scripts/rows.sh
source "$(dirname "$0")/rows.sh"

tested QA || say "$root/main.py" --mode cfmask "${data[@]}" --experiment_name QA "${extra[@]}"
