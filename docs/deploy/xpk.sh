#!/usr/bin/env bash
# Two slices of v5e:4x4 on a GKE cluster that xpk manages (pip install xpk):
#   CLUSTER=c PROJECT=p ZONE=z IMAGE=REGION-docker.pkg.dev/P/R/clap_jax:tpu \
#     docs/deploy/xpk.sh RUN --config=... --workdir=/mnt/shared/runs/RUN
# RUN names the workload; the rest goes to `clap train`.
set -euo pipefail
run="$1"
shift
exec xpk workload create --workload="$run" --cluster="${CLUSTER:?}" \
  --project="${PROJECT:?}" --zone="${ZONE:?}" --docker-image="${IMAGE:?}" \
  --tpu-type=v5litepod-16 --num-slices="${SLICES:-2}" \
  --max-restarts="${RESTARTS:-10}" \
  --command="$(printf '%q ' /opt/clap_jax/launch.sh clap train \
    --distributed "$@")"
