#!/usr/bin/env bash
# Lint, types and tests; further arguments go to pytest (for the long checks: scripts/test.sh -m slow).
set -euo pipefail
# shellcheck source=scripts/environment.sh
source "$(dirname "$0")/environment.sh"
cd "$root"
ruff check .
ruff format --check .
mypy
if [ $# -eq 0 ]; then
    set -- -m "not slow or ci"
fi
# A process a core, four at most: each computes with one thread (tests/conftest.py), and what the
# tests of a file share is made once.
exec python -m pytest -q --numprocesses logical --maxprocesses 4 --dist loadfile "$@"
