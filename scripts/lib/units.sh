# shellcheck shell=bash
# The units that scripts/test runs: what each installs, what it executes, how long it may take.

passed_count=0
failed_count=0
skipped_count=0

# Run one unit: one line with its outcome, and the end of its log if it failed.
run_unit() {
    local name=$1 log="$LOGS/$1.log" started=$SECONDS code=0 skips
    if [ "$BROKER" = kafka ] && [[ $name = crash || $name = chaos || $name = cluster-* || $name = metrics || $name = docker ]]; then
        skipped_count=$((skipped_count + 1))
        echo "SKIP $name (it starts and kills Chronik's own nodes)"
        return
    fi
    # Not behind "||" or "if", where bash would go on after commands that fail.
    set +e
    (
        set -euo pipefail
        execute_unit "$name"
    ) </dev/null >"$log" 2>&1
    code=$?
    set -e
    if [ $code = 77 ]; then
        skipped_count=$((skipped_count + 1))
        echo "SKIP $name ($(grep '^skip' "$log" | tail -n 1))"
        return
    fi
    if [ $code = 0 ]; then
        passed_count=$((passed_count + 1))
        skips=$(grep -c '^skip ' "$log" || true)
        [ "$skips" = 0 ] && skips="" || skips=", $skips skipped"
        echo "PASS $name ($((SECONDS - started)) s$skips)"
        return
    fi
    failed_count=$((failed_count + 1))
    echo "FAIL $name (exit code $code after $((SECONDS - started)) s; $log)"
    # The cases that failed, then the end, which is where a crash or a time limit shows.
    grep '^not ok' "$log" | cut -c1-600 | sed 's/^/    /' || true
    echo "    --- end of the log"
    tail -n 40 "$log" | cut -c1-600 | sed 's/^/    /'
}

# Run a suite against a broker of its own, whose data is kept for the dump-log unit:
# against_broker NAME TIMEOUT_SECONDS COMMAND…
against_broker() {
    local name=$1 limit_s=$2
    shift 2
    against_broker_with "$name" "$limit_s" "" "$@"
}

# The same with broker configs, NAME=VALUE separated by blanks: against_broker_with NAME TIMEOUT_SECONDS CONFIGS COMMAND…
against_broker_with() {
    local name=$1 limit_s=$2 configs=() set=() config
    read -ra configs <<<"$3"
    shift 3
    for config in "${configs[@]}"; do set+=(--set "$config"); done
    timeout --kill-after=20 "$limit_s" python3 tests/lib/daemon.py "$BROKER" "${set[@]}" \
        --binary "$BINARY" --libs "$KAFKA_LIBS" --keep "$RUNS/$name" --log "$LOGS/$name.broker.log" -- "$@"
}

# Both brokers make up their groups as fast; Kafka's default is 3 s.
GROUPS_CONFIGS="group.initial.rebalance.delay.ms=500"

execute_unit() {
    local python="$CACHE/venv" clients=tests/clients
    case $1 in
        fmt) cargo fmt --all --check ;;
        clippy) timeout 900 cargo clippy --workspace --all-targets --locked -- -D warnings ;;
        cargo-test)
            install_kafka
            timeout 1800 cargo test --workspace --locked
            ;;
        simulation)
            timeout 1200 cargo build --release --locked -p chronik-sim
            timeout 900 "${CARGO_TARGET_DIR:-target}/release/chronik-sim" cluster --seeds "$SIMULATION_SEEDS"
            ;;
        scripts)
            install_apt shellcheck shellcheck
            install_venv tools tests/requirements.txt
            shellcheck --external-sources scripts/test scripts/cluster scripts/lib/*.sh .ci/run
            "$python/tools/bin/ruff" check --no-cache tests
            "$python/tools/bin/ruff" format --no-cache --check tests
            # The clients' packages are in environments of their own.
            "$python/tools/bin/mypy" --cache-dir "$CACHE/mypy" --disable-error-code import-not-found tests/lib tests/crash/*.py tests/cluster/*.py tests/chaos/*.py
            test -z "$(gofmt -l $clients/go)"
            cargo fmt --check --manifest-path $clients/rust/Cargo.toml
            ;;
        build)
            if [ "$BROKER" = kafka ]; then
                install_kafka
            elif [ -z "${CHRONIK_BINARY:-}" ]; then
                timeout 1200 cargo build --release --locked --bin chronik-server
            fi
            ;;
        raw) against_broker raw 600 python3 $clients/raw/suite.py '{bootstrap}' ;;
        kafka-python-2.0.2)
            install_venv kafka-python-2.0.2 $clients/kafka-python/requirements-2.0.2.txt
            against_broker "$1" 600 "$python/$1/bin/python" $clients/kafka-python/suite.py '{bootstrap}'
            ;;
        kafka-python)
            install_venv kafka-python $clients/kafka-python/requirements.txt
            against_broker "$1" 600 "$python/$1/bin/python" $clients/kafka-python/suite.py '{bootstrap}'
            ;;
        confluent-kafka)
            install_venv confluent-kafka $clients/confluent-kafka/requirements.txt
            against_broker "$1" 600 "$python/$1/bin/python" $clients/confluent-kafka/suite.py '{bootstrap}'
            ;;
        kafkajs)
            install_kafkajs
            against_broker kafkajs 600 node $clients/kafkajs/suite.js '{bootstrap}'
            ;;
        go)
            install_go_suite
            against_broker go 600 "$CACHE/go-suite" '{bootstrap}'
            ;;
        rskafka)
            install_rskafka_suite
            against_broker rskafka 600 "$CACHE/target-rskafka/debug/rskafka-suite" '{bootstrap}'
            ;;
        kcat)
            install_apt kcat kcat
            against_broker kcat 600 python3 $clients/kcat/suite.py '{bootstrap}'
            ;;
        java-tools)
            install_kafka
            against_broker java-tools 900 python3 $clients/java/suite.py '{bootstrap}'
            ;;
        log-compaction-tester)
            install_kafka
            # Small segments and a ratio of next to nothing, so that the cleaner has much to do while the tool waits.
            against_broker_with "$1" 900 "log.segment.bytes=1048576 log.cleaner.backoff.ms=200 \
                log.cleaner.min.cleanable.ratio=0.01 log.cleaner.delete.retention.ms=1000" bash tests/clients/java/log_compaction_tester.sh '{bootstrap}'
            ;;
        dump-log)
            install_kafka
            timeout 600 python3 tests/lib/dumplog.py "$RUNS"
            ;;
        chaos-checker) PYTHONPATH=$PYTHONPATH:tests/chaos python3 -m unittest discover -s tests/chaos -p 'test_*.py' ;;
        chaos)
            install_kafka
            install_venv confluent-kafka $clients/confluent-kafka/requirements.txt
            install_venv kafka-python $clients/kafka-python/requirements.txt
            install_apt ip iproute2
            install_apt iptables iptables
            # What is there when the time is up is judged, with a CRC-32C that is not Python's own.
            timeout --kill-after=900 $((300 + CHAOS_FAULTS * 15 + CHAOS_RECORDS / 4000)) \
                "$python/kafka-python/bin/python" tests/chaos/run.py \
                --binary "$BINARY" --venvs "$python" --libs "$KAFKA_LIBS" \
                --faults "$CHAOS_FAULTS" --records "$CHAOS_RECORDS" --seed "$CHAOS_SEED"
            ;;
        crash-checker) python3 -m unittest discover -s tests/crash -p 'test_*.py' ;;
        crash)
            install_kafka
            install_venv confluent-kafka $clients/confluent-kafka/requirements.txt
            timeout 900 "$python/confluent-kafka/bin/python" tests/crash/rounds.py "$BROKER" \
                --binary "$BINARY" --libs "$KAFKA_LIBS" --rounds "$CRASH_ROUNDS"
            ;;
        cluster-nodes)
            install_kafka
            install_venv kafka-python $clients/kafka-python/requirements.txt
            timeout --kill-after=20 600 "$python/kafka-python/bin/python" tests/cluster/suite.py \
                --binary "$BINARY" --libs "$KAFKA_LIBS"
            ;;
        cluster-replication)
            install_venv kafka-python $clients/kafka-python/requirements.txt
            timeout --kill-after=20 900 "$python/kafka-python/bin/python" tests/cluster/replication.py --binary "$BINARY"
            ;;
        cluster-in-sync)
            install_kafka
            install_venv kafka-python $clients/kafka-python/requirements.txt
            install_apt ip iproute2
            install_apt iptables iptables
            timeout --kill-after=20 300 "$python/kafka-python/bin/python" tests/cluster/in_sync.py \
                --binary "$BINARY" --libs "$KAFKA_LIBS"
            ;;
        cluster-rolling)
            install_venv confluent-kafka $clients/confluent-kafka/requirements.txt
            timeout --kill-after=20 300 "$python/confluent-kafka/bin/python" tests/cluster/rolling.py --binary "$BINARY"
            ;;
        cluster-failover)
            install_venv confluent-kafka $clients/confluent-kafka/requirements.txt
            install_apt ip iproute2
            install_apt iptables iptables
            timeout --kill-after=20 1200 "$python/confluent-kafka/bin/python" tests/cluster/failover.py --binary "$BINARY" \
                --rounds "$FAILOVER_ROUNDS"
            ;;
        cluster-groups)
            install_venv confluent-kafka $clients/confluent-kafka/requirements.txt
            install_venv kafka-python $clients/kafka-python/requirements.txt
            timeout --kill-after=20 600 "$python/confluent-kafka/bin/python" tests/groups/failover.py --binary "$BINARY" \
                --logs "$LOGS/$1"
            ;;
        cluster-tools)
            install_kafka
            timeout --kill-after=20 900 python3 tests/cluster/tools.py --binary "$BINARY" --libs "$KAFKA_LIBS"
            ;;
        metrics)
            install_venv metrics tests/metrics/requirements.txt
            timeout --kill-after=20 300 "$python/metrics/bin/python" tests/metrics/suite.py --binary "$BINARY"
            ;;
        cluster-script)
            install_venv confluent-kafka $clients/confluent-kafka/requirements.txt
            timeout --kill-after=20 300 "$python/confluent-kafka/bin/python" tests/cluster-launch/suite.py --binary "$BINARY"
            ;;
        docker)
            install_docker
            install_venv kafka-python $clients/kafka-python/requirements.txt
            timeout --kill-after=60 480 "$python/kafka-python/bin/python" tests/docker/suite.py \
                --binary "$BINARY" --cache "$CACHE/docker"
            ;;
        cluster-figures)
            timeout --kill-after=20 600 python3 tests/cluster/figures.py --binary "$BINARY"
            ;;
        groups-kafka-python)
            install_venv kafka-python $clients/kafka-python/requirements.txt
            against_broker_with "$1" 600 "$GROUPS_CONFIGS" "$python/kafka-python/bin/python" $clients/kafka-python/groups.py '{bootstrap}'
            ;;
        groups-confluent-kafka)
            install_venv confluent-kafka $clients/confluent-kafka/requirements.txt
            against_broker_with "$1" 600 "$GROUPS_CONFIGS" "$python/confluent-kafka/bin/python" $clients/confluent-kafka/groups.py '{bootstrap}'
            ;;
        groups-aiokafka)
            install_venv aiokafka $clients/aiokafka/requirements.txt
            against_broker_with "$1" 600 "$GROUPS_CONFIGS" "$python/aiokafka/bin/python" $clients/aiokafka/suite.py '{bootstrap}'
            ;;
        groups-kafkajs)
            install_kafkajs
            against_broker_with "$1" 600 "$GROUPS_CONFIGS" node $clients/kafkajs/suite.js '{bootstrap}' groups
            ;;
        groups-go)
            install_go_suite
            against_broker_with "$1" 600 "$GROUPS_CONFIGS" "$CACHE/go-suite" '{bootstrap}' groups
            ;;
        groups-java-tools)
            install_kafka
            against_broker_with "$1" 900 "$GROUPS_CONFIGS" python3 $clients/java/groups.py '{bootstrap}'
            ;;
        groups-checker) python3 -m unittest discover -s tests/groups -p 'test_*.py' ;;
        groups-load)
            install_kafka
            install_venv kafka-python $clients/kafka-python/requirements.txt
            install_venv confluent-kafka $clients/confluent-kafka/requirements.txt
            install_venv aiokafka $clients/aiokafka/requirements.txt
            install_kafkajs
            install_go_suite
            against_broker_with "$1" 900 "$GROUPS_CONFIGS group.min.session.timeout.ms=1000 offsets.topic.num.partitions=5" \
                "$python/confluent-kafka/bin/python" tests/groups/load.py '{bootstrap}' '{log}' "$LOGS/$1"
            ;;
        groups-replay)
            timeout 300 python3 tests/groups/replay.py "$BROKER" --binary "$BINARY" --libs "$KAFKA_LIBS"
            ;;
        *)
            echo "unit '$1' is listed in scripts/test and not defined here"
            return 2
            ;;
    esac
}
