# What everything is made in: Debian or Ubuntu with Python 3.11 or newer. Its Python, nginx and C library go along.
ARG BUILD_IMAGE=debian:bookworm-slim
# What the image to inherit from stands on: any image for Linux, `scratch` too.
ARG BASE_IMAGE=debian:bookworm-slim

# --- /longshore, which needs nothing of the image that it is in; what it is made with is not copied.
FROM ${BUILD_IMAGE} AS build
USER root

COPY image/install-build-tools /build/
RUN /build/install-build-tools

# For networks that have a certificate or a package index of their own.
ARG PIP_CERT
ARG PIP_INDEX_URL
COPY requirements.txt image/make_runtime.py image/image_paths.py image/sbom.py /build/
COPY image/launch.c image/become.c image/nginx_users.c /build/
RUN build-python -BEs /build/make_runtime.py

COPY image/make-program /build/
COPY container /build/program
COPY LICENSE /build/program/
RUN /build/make-program /build/program /build/launch /images

# --- What an image that is adapted gets, alone: `docker run --rm THIS layer >longshore-layer.tar.gz`.
FROM scratch AS layer
COPY --from=build /longshore /longshore
COPY --from=build /images/layer /

ENTRYPOINT ["/longshore/bin/longshore"]
CMD ["usage"]
USER 0
STOPSIGNAL SIGTERM

ARG LONGSHORE_VERSION=0.1.0
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port="true" \
      longshore.version="${LONGSHORE_VERSION}"

# --- The image to inherit from: the base, /longshore, /opt/program, its commands in /usr/local/bin, two empty folders.
FROM ${BASE_IMAGE}
COPY --from=build /longshore /longshore
COPY --from=build /images/base /

# Without it a program's lines would come when it ends, not when it writes them.
ENV PYTHONUNBUFFERED=1
# For GPUs, unless the base has said otherwise.
ENV NVIDIA_VISIBLE_DEVICES=${NVIDIA_VISIBLE_DEVICES:-all} \
    NVIDIA_DRIVER_CAPABILITIES=${NVIDIA_DRIVER_CAPABILITIES:-compute,utility}

# SageMaker runs `docker run IMAGE serve` (or train): an entrypoint would swallow it. The algorithm's user is
# ALGORITHM_USER; the server is root where it may be, to switch to it. By number: a base may have no /etc/passwd.
ENTRYPOINT []
CMD ["longshore", "usage"]
USER 0
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
