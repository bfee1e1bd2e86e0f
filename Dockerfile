# Any Debian or Ubuntu image whose distribution has Python 3.11 or newer.
ARG BASE_IMAGE=debian:bookworm-slim

# --- What is made here is copied into the image; what it is made with is not.
FROM ${BASE_IMAGE} AS build
USER root
# The base's is inherited, and so are its variables, which are for its programs, not for those that are used here.
SHELL ["/bin/sh", "-c"]
ENV BASE_PATH=${PATH}
ENV PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LD_LIBRARY_PATH= LD_PRELOAD= PYTHONHOME= PYTHONPATH= HOME=/root

COPY image/install-build-tools /build/
RUN /build/install-build-tools "${BASE_PATH}"

# For networks that have a certificate or a package index of their own.
ARG PIP_CERT
ARG PIP_INDEX_URL
COPY requirements.txt image/make_runtime.py image/sbom.py image/launch /build/
RUN build-python -BEs /build/make_runtime.py

COPY image/make-program /build/
COPY container /image/opt/program
COPY LICENSE /image/opt/program/
RUN /build/make-program /image

# --- The image: the base, /opt/model-server, /opt/program, five commands in /usr/local/bin and two empty folders.
FROM ${BASE_IMAGE}
COPY --from=build /opt/model-server /opt/model-server
COPY --from=build /image /

# Without it a program's lines would come when it ends, not when it writes them.
ENV PYTHONUNBUFFERED=1
# For GPUs, unless the base has said otherwise.
ENV NVIDIA_VISIBLE_DEVICES=${NVIDIA_VISIBLE_DEVICES:-all} \
    NVIDIA_DRIVER_CAPABILITIES=${NVIDIA_DRIVER_CAPABILITIES:-compute,utility}

# SageMaker runs `docker run IMAGE serve` (or train): an entrypoint would swallow it. The algorithm's user is
# ALGORITHM_USER; the server is root where it may be, to switch to it.
ENTRYPOINT []
CMD ["longshore", "usage"]
USER root
STOPSIGNAL SIGTERM

# A variable of the base goes before an argument of its name.
ARG LONGSHORE_SOURCE=
ARG LONGSHORE_VERSION=0.1.0
ARG LONGSHORE_REVISION=
LABEL org.opencontainers.image.source="${LONGSHORE_SOURCE}" \
      org.opencontainers.image.version="${LONGSHORE_VERSION}" \
      org.opencontainers.image.revision="${LONGSHORE_REVISION}" \
      com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true" \
      longshore.version="${LONGSHORE_VERSION}"
