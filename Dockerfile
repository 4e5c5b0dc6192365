# The environment that launch.sh makes, as an image that runs `clap`:
#   docker build --build-arg HARDWARE=cpu|cuda|tpu [--build-arg BUCKET=gcs] \
#     --tag clap_jax:tpu .
#   docker run clap_jax:tpu train --help
# The base brings no CUDA: HARDWARE=cuda takes it from NVIDIA's packages, by
# their hashes, and the driver from the host (nvidia-container-toolkit).
# Give PYTHON_IMAGE with a digest to build from the very same base each time.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
FROM ${PYTHON_IMAGE}

ARG HARDWARE=cpu
# gcs or s3: for addresses of buckets.
ARG BUCKET=

ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1000 --user-group clap \
    && install --directory --owner=clap --group=clap /opt/clap_jax
USER 1000:1000
WORKDIR /opt/clap_jax
COPY --chown=clap:clap . .
RUN PIP_NO_CACHE_DIR=1 ./launch.sh install "${HARDWARE}" ${BUCKET}

ENTRYPOINT ["/opt/clap_jax/launch.sh", "clap"]
CMD ["--help"]
