#!/usr/bin/env bash
# Kafka's own LogCompactionTester, once for each codec: it writes every key several times and deletes some, waits, reads
# all of it, and compares. The rows that it read are fewer than those that it wrote only where logs were compacted.
set -euo pipefail

bootstrap=$1
for codec in none gzip snappy lz4 zstd; do
    said=$(java -cp "$KAFKA_LIBS/*" org.apache.kafka.tools.LogCompactionTester --bootstrap-server "$bootstrap" \
        --messages 400000 --topics 1 --duplicates 20 --percent-deletes 20 --compression-type "$codec" --sleep 10 2>&1) || { echo "$said"; exit 1; }
    # The rest is the clients' settings, unless something went wrong.
    grep -E 'rows of data|Validated|Exception|failed|ERROR' <<<"$said" || true
    grep -q 'Data verification is completed' <<<"$said"
    reduction=$(sed -n 's/.*(\([0-9]*\)\.[0-9]*% reduction).*/\1/p' <<<"$said")
    if [ "${reduction:-0}" -lt 20 ]; then
        echo "not ok: $codec: hardly anything was compacted"
        exit 1
    fi
    echo "ok $codec"
done
