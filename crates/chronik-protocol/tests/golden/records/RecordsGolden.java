import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.List;
import java.util.StringJoiner;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.CompressionType;
import org.apache.kafka.common.record.internal.ControlRecordType;
import org.apache.kafka.common.record.internal.DefaultRecordBatch;
import org.apache.kafka.common.record.internal.EndTransactionMarker;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.MemoryRecordsBuilder;
import org.apache.kafka.common.record.internal.MutableRecordBatch;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.utils.ByteBufferOutputStream;
import org.apache.kafka.common.utils.Crc32C;

/**
 * Writes record batches with Kafka's own builder, each with a description of what its own reader finds in it; or reads
 * batches that somebody else wrote and compares them with the description that came with them.
 *
 * <pre>RecordsGolden write FILE    RecordsGolden check FILE</pre>
 */
public final class RecordsGolden {
    private static final HexFormat HEX = HexFormat.of();
    private static final int ROOM = 1 << 20;

    public static void main(String[] args) throws Exception {
        Path file = Path.of(args[1]);
        if (args[0].equals("write")) {
            try (PrintStream out = new PrintStream(Files.newOutputStream(file), false, StandardCharsets.US_ASCII)) {
                write(out);
            }
        } else {
            check(Files.readAllLines(file));
        }
    }

    private static void write(PrintStream out) {
        for (CompressionType type : CompressionType.values()) {
            Compression codec = Compression.of(type).build();
            for (TimestampType time : new TimestampType[] {TimestampType.CREATE_TIME, TimestampType.LOG_APPEND_TIME}) {
                emit(out, type.name + "/mixed/" + time.name, mixed(codec, time));
            }
            emit(out, type.name + "/one-empty", oneEmpty(codec));
            if (type != CompressionType.NONE) {
                emit(out, type.name + "/blocks", blocks(codec));
            }
        }
        emit(out, "gzip/level-9", blocks(Compression.gzip().level(9).build()));
        emit(out, "lz4/level-17", blocks(Compression.lz4().level(17).build()));
        emit(out, "zstd/level-22", blocks(Compression.zstd().level(22).build()));
        emit(out, "zstd/level--5", blocks(Compression.zstd().level(-5).build()));
        for (ControlRecordType type : new ControlRecordType[] {ControlRecordType.ABORT, ControlRecordType.COMMIT}) {
            emit(out, "marker/" + type, MemoryRecords.withEndTransactionMarker(
                77L, 1_700_000_000_000L, 5, 9_000L, (short) 3, new EndTransactionMarker(type, 12)).buffer());
        }
        emit(out, "horizon", horizon());
        emit(out, "empty", empty());
        out.println("legacy 0 " + HEX.formatHex(bytes(legacy((byte) 0, Compression.NONE))));
        out.println("legacy 1 " + HEX.formatHex(bytes(legacy((byte) 1, Compression.NONE))));
        out.println("legacy 1 " + HEX.formatHex(bytes(legacy((byte) 1, Compression.gzip().build()))));
    }

    /** Nulls, empties, headers of every kind, gaps in the offsets, times that go back, a producer. */
    private static ByteBuffer mixed(Compression codec, TimestampType time) {
        MemoryRecordsBuilder builder = new MemoryRecordsBuilder(ByteBuffer.allocate(ROOM), (byte) 2, codec, time,
            1_000_000L, time == TimestampType.LOG_APPEND_TIME ? 1_800_000_000_000L : -1L, 123_456_789_012L, (short) 7,
            Integer.MAX_VALUE - 1, true, false, 42, ROOM);
        Header[] headers = {
            new RecordHeader("twice", utf8("one")), new RecordHeader("twice", null), new RecordHeader("", new byte[0]),
            new RecordHeader("k\u00e9y", new byte[] {(byte) 0xff, (byte) 0xfe, 0})};
        builder.appendWithOffset(1_000_000L, 1_700_000_000_000L, utf8("key"), utf8("value"), headers);
        builder.appendWithOffset(1_000_001L, 1_699_999_999_000L, (byte[]) null, utf8("no key"), new Header[0]);
        builder.appendWithOffset(1_000_005L, 1_700_000_100_000L, utf8("tombstone"), (byte[]) null, new Header[0]);
        builder.appendWithOffset(1_000_300L, 1_700_000_050_000L, new byte[0], new byte[0], new Header[0]);
        builder.appendWithOffset(1_000_301L, 0L, (byte[]) null, (byte[]) null, new Header[] {new RecordHeader("h", new byte[300])});
        return builder.build().buffer();
    }

    private static ByteBuffer oneEmpty(Compression codec) {
        MemoryRecordsBuilder builder =
            MemoryRecords.builder(ByteBuffer.allocate(ROOM), codec, TimestampType.CREATE_TIME, 0L);
        builder.append(-1L, (byte[]) null, (byte[]) null);
        return builder.build().buffer();
    }

    /** More than one block of every codec, part of it hard to compress. */
    private static ByteBuffer blocks(Compression codec) {
        MemoryRecordsBuilder builder =
            MemoryRecords.builder(ByteBuffer.allocate(ROOM), codec, TimestampType.CREATE_TIME, 0L);
        long state = 1;
        for (int index = 0; index < 40; index++) {
            byte[] value = new byte[index * 250];
            for (int at = 0; at < value.length; at++) {
                state = state * 6_364_136_223_846_793_005L + 1_442_695_040_888_963_407L;
                value[at] = (byte) (at % 64 == 0 && index % 4 == 0 ? state >>> 56 : at / 100);
            }
            builder.append(1_700_000_000_000L + index, utf8("key " + index), value);
        }
        return builder.build().buffer();
    }

    private static ByteBuffer horizon() {
        MemoryRecordsBuilder builder = new MemoryRecordsBuilder(
            new ByteBufferOutputStream(ByteBuffer.allocate(ROOM)), (byte) 2, Compression.zstd().build(),
            TimestampType.CREATE_TIME, 10L, -1L, -1L, (short) -1, -1, false, false, 1, ROOM, 1_900_000_000_000L);
        builder.appendWithOffset(12L, 1_700_000_000_000L, utf8("gone"), (byte[]) null, new Header[0]);
        builder.overrideLastOffset(19L);
        return builder.build().buffer();
    }

    private static ByteBuffer empty() {
        ByteBuffer buffer = ByteBuffer.allocate(DefaultRecordBatch.RECORD_BATCH_OVERHEAD);
        DefaultRecordBatch.writeEmptyHeader(buffer, (byte) 2, 55L, (short) 1, 30, 100L, 109L, 6,
            TimestampType.CREATE_TIME, 1_700_000_000_000L, true, false);
        buffer.flip();
        return buffer;
    }

    private static ByteBuffer legacy(byte magic, Compression codec) {
        MemoryRecordsBuilder builder = MemoryRecords.builder(ByteBuffer.allocate(ROOM), magic, codec,
            magic == 0 ? TimestampType.NO_TIMESTAMP_TYPE : TimestampType.CREATE_TIME, 0L);
        builder.append(1_700_000_000_000L, utf8("key"), utf8("value"));
        return builder.build().buffer();
    }

    private static void emit(PrintStream out, String name, ByteBuffer batch) {
        out.println("case " + name);
        out.println("batch " + HEX.formatHex(bytes(batch)));
        describe(batch).forEach(out::println);
    }

    private static void check(List<String> lines) {
        int cases = 0;
        int at = 0;
        while (at < lines.size()) {
            String name = lines.get(at++);
            byte[] batch = HEX.parseHex(lines.get(at++).substring("batch ".length()));
            for (String found : describe(ByteBuffer.wrap(batch))) {
                String expected = at < lines.size() ? lines.get(at++) : "nothing";
                if (!found.equals(expected)) {
                    throw new IllegalStateException(name + "\n  found    " + found + "\n  expected " + expected);
                }
            }
            cases++;
        }
        System.out.println(cases + " batches are as described");
    }

    private static List<String> describe(ByteBuffer bytes) {
        MutableRecordBatch batch = MemoryRecords.readableRecords(bytes.duplicate()).batches().iterator().next();
        batch.ensureValid();
        java.util.ArrayList<String> lines = new java.util.ArrayList<>();
        lines.add(String.join(" ", "header", "offsets=" + batch.baseOffset() + ".." + batch.lastOffset(),
            "epoch=" + batch.partitionLeaderEpoch(), "codec=" + batch.compressionType().name,
            "time=" + batch.timestampType().name, "max=" + batch.maxTimestamp(), "producer=" + batch.producerId(),
            "producer_epoch=" + batch.producerEpoch(), "sequences=" + batch.baseSequence() + ".." + batch.lastSequence(),
            "transactional=" + batch.isTransactional(), "control=" + batch.isControlBatch(),
            "horizon=" + batch.deleteHorizonMs().orElse(-1), "count=" + batch.countOrNull()));
        for (Record record : batch) {
            StringJoiner line = new StringJoiner(" ", "record ", "");
            line.add(Long.toString(record.offset())).add(Long.toString(record.timestamp()));
            line.add(text(record.key())).add(text(record.value()));
            for (Header header : record.headers()) {
                byte[] value = header.value();
                line.add(text(ByteBuffer.wrap(utf8(header.key()))) + ":"
                    + text(value == null ? null : ByteBuffer.wrap(value)));
            }
            lines.add(line.toString());
        }
        return lines;
    }

    /** Long values by length and CRC-32C, so that the file stays small. */
    private static String text(ByteBuffer buffer) {
        if (buffer == null) {
            return "null";
        }
        byte[] bytes = bytes(buffer);
        if (bytes.length > 64) {
            return "#" + bytes.length + "/" + Long.toHexString(Crc32C.compute(bytes, 0, bytes.length));
        }
        return "'" + HEX.formatHex(bytes);
    }

    private static byte[] bytes(ByteBuffer buffer) {
        byte[] bytes = new byte[buffer.remaining()];
        buffer.duplicate().get(bytes);
        return bytes;
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
