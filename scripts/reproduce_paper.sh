#!/usr/bin/env bash
# Every row, then the table. Arguments: see scripts/rows.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
for rows in fcd fcdplus supervised cam cfmask; do
    bash "$here/run_$rows.sh" "$@"
done
# shellcheck source=scripts/rows.sh
source "$here/rows.sh"
names=(QA)
for seed in $seeds; do
    for name in FCD- FCD-unlabelled- StarGAN- CAM- GradCAM- GradCAMpp- UCAM- FCDPlus- FCDPlus1Pct- \
        Supervised- Pre- Pre1Pct- Rand1Pct-; do
        names+=("$name$seed")
    done
done
say -m fcd.comparison "${names[@]/#/outputs/}" --output_dir outputs/comparison
echo "report: $PWD/outputs/comparison/comparison.html"
