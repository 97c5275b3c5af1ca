# syntax=docker/dockerfile:1.7

# LC_ALL must be C.UTF-8 for tmux.
ARG BASE_IMAGE=nikolaik/python-nodejs:python3.13-nodejs22-slim
ARG USERNAME=openhands
ARG UID=10001
ARG PORT=8000
ARG ENABLE_VERTEX=0

#########################
# Builder
#########################
FROM python:3.13-bookworm AS builder
ARG USERNAME UID ENABLE_VERTEX
COPY --from=ghcr.io/astral-sh/uv:0.11.6 /uv /uvx /bin/
WORKDIR /agent-server
COPY --chown=${USERNAME}:${USERNAME} pyproject.toml uv.lock README.md LICENSE ./
COPY openhands-sdk ./openhands-sdk
RUN --mount=type=cache,target=/home/${USERNAME}/.cache,uid=${UID} \
    EXTRA_FLAGS=""; \
    # Only where it was asked for.
    if [ "$ENABLE_VERTEX" = "1" ]; then EXTRA_FLAGS="--extra vertex"; fi; \

    uv sync --frozen $EXTRA_FLAGS

# ---- the executable ----
FROM builder AS binary-builder
RUN uv run pyinstaller agent-server.spec

FROM ${BASE_IMAGE} AS base-image-minimal
ARG USERNAME UID PORT
ARG OPENHANDS_BUILD_GIT_SHA=unknown
ARG OPENHANDS_BUILD_GIT_REF=unknown
ENV OPENHANDS_BUILD_GIT_SHA=${OPENHANDS_BUILD_GIT_SHA}
ENV OPENHANDS_BUILD_GIT_REF=${OPENHANDS_BUILD_GIT_REF}
EXPOSE ${PORT}

FROM base-image-minimal AS base-image
ARG RELEASE_TAG="openvscode-server-v1.98.2"
COPY --from=builder /agent-server/extensions /extensions
COPY openhands-agent-server/openhands/agent_server/docker/wallpaper.svg /usr/share/backgrounds/

# Target A
FROM base-image AS source
COPY --from=builder /agent-server /agent-server
ENTRYPOINT ["tini", "--", "/agent-server/.venv/bin/python", "-m", "openhands.agent_server"]

FROM base-image-minimal AS source-minimal
COPY --from=builder /agent-server /agent-server
ENTRYPOINT ["tini", "--", "/agent-server/.venv/bin/python", "-m", "openhands.agent_server"]

# Target B
FROM base-image AS binary
COPY --from=binary-builder /agent-server/dist/openhands-agent-server /usr/local/bin/
ENTRYPOINT ["tini", "--", "/usr/local/bin/openhands-agent-server"]

FROM base-image-minimal AS binary-minimal
COPY --from=binary-builder /agent-server/dist/openhands-agent-server /usr/local/bin/
ENTRYPOINT ["tini", "--", "/usr/local/bin/openhands-agent-server"]
