# escape=`
ARG BASE_IMAGE=mcr.microsoft.com/windows/nanoserver:ltsc2022
FROM ${BASE_IMAGE} AS unused
COPY a c:\
FROM ${BASE_IMAGE} AS source
ARG FOLDER=c:\app
COPY pyproject.toml c:\
RUN dir `
    c:\
WORKDIR c:\
