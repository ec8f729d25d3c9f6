# The gateway in a small image.
#
#   docker build -t portcullis .                                        release: no embedded pool
#   docker build -t portcullis:demo --build-arg FEATURES=devpool .      with the embedded pool, for demos
#
# Nothing is installed in either stage: the toolchain image has the C compiler that aws-lc needs, and
# the gateway brings trust anchors of its own for machines that have none.

ARG RUST=1.95
ARG DEBIAN=bookworm

FROM rust:${RUST}-slim-${DEBIAN} AS build
ARG FEATURES=""
WORKDIR /src
# The dependencies are a layer of their own: they change less often than the sources and take most
# of the time. Cargo wants to see the targets that the manifest names, so they exist, empty.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it \
 && echo 'fn main() {}' > src/main.rs \
 && touch src/lib.rs tests/it/main.rs \
 && cargo build --release --locked --no-default-features --features "${FEATURES}" \
 && rm -r src
COPY src src
# Cargo compares times of files, and the sources may be older than the empty ones just built.
RUN touch src/main.rs src/lib.rs \
 && cargo build --release --locked --no-default-features --features "${FEATURES}"

FROM debian:${DEBIAN}-slim
RUN groupadd --system --gid 10001 portcullis \
 && useradd --system --uid 10001 --gid portcullis --no-create-home --shell /usr/sbin/nologin portcullis \
 && install -d -o portcullis -g portcullis -m 0700 /var/lib/portcullis
COPY --from=build /src/target/release/portcullis /usr/local/bin/portcullis
ENV PORTCULLIS_CONFIG=/etc/portcullis/portcullis.toml
# By number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 10001:10001
WORKDIR /var/lib/portcullis
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s --retries=3 CMD ["portcullis", "health"]
ENTRYPOINT ["portcullis"]
CMD ["run"]
