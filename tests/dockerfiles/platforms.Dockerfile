ARG SUITE=trixie
ARG VARIANT
FROM --platform=$BUILDPLATFORM debian:${SUITE} AS base-amd64
FROM debian:${SUITE} AS base-arm64
FROM debian:${SUITE} AS other
FROM base-${TARGETARCH} AS base
FROM ${VARIANT:-base} AS source
RUN true
