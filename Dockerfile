# A static binary in an empty image: nothing to patch but the binary itself.
FROM rust:1.95-alpine AS build
# SQLite and the TLS crypto are compiled from C.
RUN apk add --no-cache build-base ca-certificates
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo ./.cargo
COPY src ./src
COPY blueprints ./blueprints
# Targets of the manifest that are not built here still have to be there.
COPY benches ./benches
COPY tests/it ./tests/it
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin aqueduct \
    && cp target/release/aqueduct /aqueduct \
    && mkdir -p /empty/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /aqueduct /aqueduct
# Owned by the user below, so that a new volume is writable for it.
COPY --from=build --chown=65532:65532 /empty/data /data
USER 65532:65532
ENV AQUEDUCT_DATA_DIR=/data \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
VOLUME ["/data"]
# Ingest. Admin (8084) and metrics (9464) listen on loopback unless told otherwise.
EXPOSE 8080
# Longer than the drain deadline: SIGTERM empties the hands before it leaves.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/aqueduct", "healthcheck"]
ENTRYPOINT ["/aqueduct"]
CMD ["serve"]
