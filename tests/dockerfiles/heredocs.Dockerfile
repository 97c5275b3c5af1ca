FROM alpine:3 AS unused
RUN <<EOF
FROM source AS not-a-stage
EOF

FROM alpine:3 AS tools
COPY <<-"END OF FILE" <<second /etc/
	FROM unused AS source
	END OF FILE
ARG VERSION=inside
second

FROM alpine:3 AS source
ARG VERSION=1
RUN cat <<EOF && \
    echo "<<NOT"
COPY --from=unused /x /y
ARG VERSION=inside
EOF
RUN ["cat", "<<EOF"]
RUN echo "<<EOF" $((1<<2)) '<<EOF'
COPY --from=tools /etc/os-release /
