FROM alpine:3 AS lint
RUN true

# The toolchain.
FROM golang:1.23
LABEL stage=toolchain

FROM alpine:3 AS test
COPY --from=1 /go /go

FROM node:22
LABEL stage=assets
ONBUILD COPY --from=lint /x /y

from alpine:3 as Source
COPY --chown=1 --from=1 /go /go
RUN --mount=type=bind,from=3,target=/assets cp -r /assets /srv
COPY --from="3" \
     # Those of the image, too.
     /etc/os-release /
COPY --from=9 /x /y

FROM source AS later
RUN true
