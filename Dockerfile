# hand1000 with everything but the model files. The second is for a GPU:
#     docker build --tag hand1000 .
#     docker build --tag hand1000:cuda --build-arg BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04 \
#         --build-arg LLAMA=-DGGML_CUDA=on .
#     docker run --rm --gpus all --volume "$PWD:/work" --volume hand1000:/home/hand/.cache hand1000:cuda handdata doctor
ARG BASE=debian:bookworm-slim
FROM ${BASE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# A compiler for llama.cpp, and the libraries of MediaPipe and OpenCV. Their versions are the distribution's.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        python3 python3-dev python3-venv build-essential cmake git libegl1 libgles2 libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --non-unique --uid 1000 --create-home hand

ENV PATH=/opt/hand1000/bin:$PATH \
    HF_HUB_DISABLE_TELEMETRY=1 \
    RAY_USAGE_STATS_ENABLED=0

COPY . /src
ARG LLAMA=
# the environment's python by its path: a shell that has run /usr/bin/python3 keeps to it, whatever PATH says by then
RUN python3 -m venv /opt/hand1000 \
    && CMAKE_ARGS="-DLLAVA_BUILD=OFF ${LLAMA}" /opt/hand1000/bin/python -m pip install \
        --no-cache-dir --constraint /src/constraints.txt '/src[all]'

# by its number, that of the first user of most machines, who owns the mounted folder; Ubuntu's image has one, too
ENV HOME=/home/hand
USER 1000
WORKDIR /work
CMD ["handdata", "doctor"]
