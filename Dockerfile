# syntax=docker/dockerfile:1
# The production image: one numeric user, nothing to write to but /var/lib/sluicegate, and the
# policy engine built here from its hashed source distribution, not taken as a binary.
#   docker build -t sluicegate:0.1.0 .
#   docker run --read-only --tmpfs /tmp --cap-drop ALL -v sluicegate:/var/lib/sluicegate \
#     -v "$PWD/sluicegate.yaml:/etc/sluicegate/sluicegate.yaml:ro" sluicegate:0.1.0
# Pin the two bases by digest where your registry lets you: --build-arg PYTHON_IMAGE=…@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG RUST_IMAGE=rust:1.95-slim-bookworm

FROM ${RUST_IMAGE} AS rust

FROM ${PYTHON_IMAGE} AS build
# hadolint ignore=DL3008 - the base image fixes the release; its compiler leaves nothing in the result
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=rust /usr/local/cargo /usr/local/cargo
COPY --from=rust /usr/local/rustup /usr/local/rustup
ENV CARGO_HOME=/usr/local/cargo RUSTUP_HOME=/usr/local/rustup \
    PATH=/usr/local/cargo/bin:/build/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src

# Everything is fetched by hash: first what builds, then what runs, which needs no network again.
COPY requirements-build.lock requirements.lock ./
RUN python -m venv /build && /build/bin/pip install --require-hashes -r requirements-build.lock
RUN /build/bin/pip wheel --require-hashes --no-build-isolation --wheel-dir /wheels \
      --no-binary gordon-to-regorus -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY policies ./policies
COPY gateway ./gateway
RUN /build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
    && python -m venv /opt/sluicegate \
    && /opt/sluicegate/bin/pip install --no-index --no-deps --compile /wheels/*.whl \
    && /opt/sluicegate/bin/pip uninstall --yes pip setuptools

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/sluicegate /opt/sluicegate
RUN install -d -o 65532 -g 65532 -m 0700 /var/lib/sluicegate
ENV PATH=/opt/sluicegate/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /var/lib/sluicegate
VOLUME /var/lib/sluicegate
EXPOSE 8080 8081 8082
# Say https:// where the ops listener has TLS; on the loopback its certificate is not checked.
ENV HEALTH_URL=http://127.0.0.1:8082/livez
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s CMD ["python", "-c", \
  "import os, ssl, urllib.request as u; u.urlopen(os.environ['HEALTH_URL'], timeout=4, context=ssl._create_unverified_context())"]
ENTRYPOINT ["sluicegate"]
CMD ["serve", "--config", "/etc/sluicegate/sluicegate.yaml"]
