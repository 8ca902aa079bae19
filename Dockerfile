# The image of one node.
#
#   docker build -t chronik .                                   compiles inside
#   docker build -t chronik --build-arg BINARY=target/image/chronik-server --build-arg BUILD_BASE=debian:bookworm-slim .
#                                                               takes a binary that is built already
#
# BASE is what the node runs on, BUILD_BASE what it is compiled on. The binary needs the C library of BASE to be as new
# as that of BUILD_BASE, or of the machine where it was built.
ARG BASE=debian:bookworm-slim
ARG BUILD_BASE=rust:1.95-slim-bookworm

FROM ${BUILD_BASE} AS build
ARG BINARY=
WORKDIR /source
COPY . .
RUN mkdir -p /out \
    && if [ -n "$BINARY" ]; then \
           cp "$BINARY" /out/chronik-server; \
       else \
           cargo build --release --locked --bin chronik-server && cp target/release/chronik-server /out/; \
       fi \
    && chmod 755 /out/chronik-server

FROM ${BASE}
RUN groupadd --gid 10001 chronik \
    && useradd --uid 10001 --gid chronik --no-create-home --home-dir /var/lib/chronik --shell /usr/sbin/nologin chronik \
    && install -d -o chronik -g chronik /var/lib/chronik
COPY --from=build /out/chronik-server /usr/local/bin/chronik-server
USER chronik
# A new volume takes its owner from the directory, so that the user may write to it.
VOLUME /var/lib/chronik
WORKDIR /var/lib/chronik
ENV CHRONIK_DATA_DIR=/var/lib/chronik CHRONIK_HTTP_PORT=9644
# Clients, the metadata log, health and metrics.
EXPOSE 9092 9093 9644
HEALTHCHECK --interval=5s --timeout=15s --start-period=60s --retries=3 CMD ["chronik-server", "health"]
ENTRYPOINT ["chronik-server"]
