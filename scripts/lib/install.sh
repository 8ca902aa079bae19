# shellcheck shell=bash
# What the tests need beyond the Rust toolchain, Python, Node, Go, Java and Maven. Everything lands
# under .cache; only missing Debian packages are installed for the whole machine.

# Run a command as root, by sudo where needed.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Install a Debian package unless its program is there: install_apt PROGRAM PACKAGE
install_apt() {
    if command -v "$1" >/dev/null; then return; fi
    # The index of a fresh machine is empty or old.
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$2"
}

# Make .cache/venv/NAME with the packages of a requirements file: install_venv NAME FILE
install_venv() {
    local venv="$CACHE/venv/$1" wanted stamp
    stamp="$venv/installed-$(sha256sum "$2" | cut -c1-16)"
    wanted=$2
    if [ -e "$stamp" ]; then return; fi
    rm -rf "$venv"
    if ! python3 -m venv "$venv"; then
        install_apt no-program-tells-this python3-venv
        python3 -m venv "$venv"
    fi
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$wanted"
    touch "$stamp"
}

# Kafka's own jars: the tools, and the broker that the suites were written against.
install_kafka() {
    local pom=tests/clients/java/pom.xml stamp
    stamp="$CACHE/kafka/installed-$(sha256sum $pom | cut -c1-16)"
    if [ "$KAFKA_LIBS" != "$CACHE/kafka/libs" ] || [ -e "$stamp" ]; then return; fi
    rm -rf "$CACHE/kafka"
    mvn --batch-mode --quiet --define style.color=never --file $pom dependency:copy-dependencies "-DoutputDirectory=$KAFKA_LIBS"
    touch "$stamp"
}

install_kafkajs() {
    local folder=tests/clients/kafkajs stamp
    stamp="$folder/node_modules/installed-$(sha256sum $folder/package-lock.json | cut -c1-16)"
    if [ -e "$stamp" ]; then return; fi
    npm ci --prefix $folder --no-audit --no-fund --loglevel=error
    touch "$stamp"
}

# A Docker engine and what makes a base image for it. Where they cannot be installed the unit says so itself.
install_docker() {
    install_apt docker docker.io || true
    install_apt dockerd docker.io || true
    install_apt docker-compose docker-compose || true
    install_apt iptables iptables || true
    install_apt debootstrap debootstrap || true
}

install_go_suite() {
    (cd tests/clients/go && go build -o "$CACHE/go-suite" .)
}

install_rskafka_suite() {
    cargo build --quiet --locked --manifest-path tests/clients/rust/Cargo.toml --target-dir "$CACHE/target-rskafka"
}
