// Writes what Apache Kafka itself makes of every message in every version: see the head of messages.txt.
//
// Arguments: the directory of Chronik's schemas, which names the messages to cover, and the file to write.
// Everything else (versions, fields, types) comes from the schemas and classes in Kafka's own jars.

import com.fasterxml.jackson.core.json.JsonReadFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.BinaryNode;
import com.fasterxml.jackson.databind.node.BooleanNode;
import com.fasterxml.jackson.databind.node.DoubleNode;
import com.fasterxml.jackson.databind.node.IntNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.LongNode;
import com.fasterxml.jackson.databind.node.NullNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.node.ShortNode;
import com.fasterxml.jackson.databind.node.TextNode;
import java.io.InputStream;
import java.io.PrintWriter;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.common.protocol.types.RawTaggedField;

public class GoldenMessages {
    static final ObjectMapper MAPPER =
        JsonMapper.builder().enable(JsonReadFeature.ALLOW_JAVA_COMMENTS).build();
    static final JsonNodeFactory NODES = JsonNodeFactory.instance;
    static final List<String> PACKAGES = List.of(
        "org.apache.kafka.common.message",
        "org.apache.kafka.coordinator.group.generated",
        "org.apache.kafka.coordinator.transaction.generated",
        "org.apache.kafka.coordinator.share.generated",
        "org.apache.kafka.server.log.remote.metadata.storage.generated");
    static final String[] WORDS = {
        "a", "orders", "group-1", "x.y_z", "\u00fcml\u00e4ut", "\u4e2d\u6587", "\ud83d\ude80", "\"q\\", "0"};

    /** How a generated value leans. */
    enum Lean { RANDOM, LOW, HIGH }

    /** An inclusive range of versions, empty when first > last. */
    record Versions(int first, int last) {
        static Versions parse(JsonNode node) {
            String text = node == null || node.isNull() ? "none" : node.asText();
            if (text.equals("none")) return new Versions(0, -1);
            if (text.endsWith("+")) return new Versions(Integer.parseInt(text.substring(0, text.length() - 1)), Short.MAX_VALUE);
            String[] ends = text.split("-");
            return new Versions(Integer.parseInt(ends[0]), Integer.parseInt(ends[ends.length - 1]));
        }

        boolean has(int version) {
            return first <= version && version <= last;
        }
    }

    /** A generator of JSON values for one message of the schema in Kafka's jar. */
    static final class Values {
        final Map<String, JsonNode> structs = new TreeMap<>();
        final JsonNode schema;
        final Random random;
        Lean lean = Lean.RANDOM;

        Values(JsonNode schema, Random random) {
            this.schema = schema;
            this.random = random;
            for (JsonNode common : orEmpty(schema.get("commonStructs"))) {
                define(common.get("name").asText(), common.get("fields"));
            }
            define(schema.get("name").asText(), orEmpty(schema.get("fields")));
        }

        void define(String name, JsonNode fields) {
            structs.put(name, fields);
            for (JsonNode field : fields) {
                if (field.has("fields")) {
                    define(field.get("type").asText().replace("[]", ""), field.get("fields"));
                }
            }
        }

        ObjectNode object(String struct, int version) {
            ObjectNode node = NODES.objectNode();
            for (JsonNode field : structs.get(struct)) {
                boolean tagged = Versions.parse(field.get("taggedVersions")).has(version);
                JsonNode versions = field.has("versions") ? field.get("versions") : field.get("taggedVersions");
                if (!Versions.parse(versions).has(version)) continue;
                if (tagged && (lean == Lean.LOW || lean == Lean.RANDOM && random.nextBoolean())) continue;
                String name = field.get("name").asText();
                String key = Character.toLowerCase(name.charAt(0)) + name.substring(1);
                boolean nullable = Versions.parse(field.get("nullableVersions")).has(version);
                boolean isNull = nullable && (lean == Lean.LOW || lean == Lean.RANDOM && random.nextInt(4) == 0);
                node.set(key, isNull ? NullNode.instance : value(field.get("type").asText(), version));
            }
            return node;
        }

        /** A value of the last version that differs from the defaults in one field alone, of one structure. */
        ObjectNode sole(String struct, String targetStruct, String targetField, int last, int older) {
            ObjectNode node = NODES.objectNode();
            for (JsonNode field : structs.get(struct)) {
                String name = field.get("name").asText();
                String type = field.get("type").asText();
                String element = type.replace("[]", "");
                Versions versions = Versions.parse(field.has("versions") ? field.get("versions") : field.get("taggedVersions"));
                boolean tagged = Versions.parse(field.get("taggedVersions")).has(last);
                if (!versions.has(last)) continue;
                String key = Character.toLowerCase(name.charAt(0)) + name.substring(1);
                boolean isTarget = struct.equals(targetStruct) && name.equals(targetField);
                if (isTarget) {
                    node.set(key, value(type, last));
                } else if (structs.containsKey(element) && versions.has(older)) {
                    ObjectNode inner = sole(element, targetStruct, targetField, last, older);
                    node.set(key, type.startsWith("[]") ? NODES.arrayNode().add(inner) : inner);
                } else if (!tagged) {
                    node.set(key, defaultValue(field, type, last));
                }
            }
            return node;
        }

        JsonNode defaultValue(JsonNode field, String type, int version) {
            String text = field.has("default") && !field.get("default").isNull() ? field.get("default").asText() : "";
            if (text.equals("null") || type.equals("records")) return NullNode.instance;
            if (type.startsWith("[]")) return NODES.arrayNode();
            switch (type) {
                case "bool": return BooleanNode.valueOf(text.equals("true"));
                case "int8", "int16", "int32", "int64", "uint16", "uint32":
                    return LongNode.valueOf(text.isEmpty() ? 0 : Long.decode(text));
                case "float64": return DoubleNode.valueOf(text.isEmpty() ? 0 : Double.parseDouble(text));
                case "uuid": return TextNode.valueOf(Uuid.ZERO_UUID.toString());
                case "string": return TextNode.valueOf(text);
                case "bytes": return BinaryNode.valueOf(new byte[0]);
                default: return sole(type, "", "", version, version);
            }
        }

        JsonNode value(String type, int version) {
            if (type.startsWith("[]")) {
                int count = lean == Lean.LOW ? 0 : lean == Lean.HIGH ? 2 : random.nextInt(4);
                String element = type.substring(2);
                // Now and then more elements than one byte of a varint counts.
                if (lean == Lean.RANDOM && !structs.containsKey(element) && random.nextInt(60) == 0) count = 130;
                ArrayNode array = NODES.arrayNode();
                for (int i = 0; i < count; i++) array.add(value(element, version));
                return array;
            }
            switch (type) {
                case "bool": return BooleanNode.valueOf(lean == Lean.HIGH || lean == Lean.RANDOM && random.nextBoolean());
                case "int8": return ShortNode.valueOf((short) number(Byte.MIN_VALUE, Byte.MAX_VALUE));
                case "int16": return ShortNode.valueOf((short) number(Short.MIN_VALUE, Short.MAX_VALUE));
                case "int32": return IntNode.valueOf((int) number(Integer.MIN_VALUE, Integer.MAX_VALUE));
                case "int64": return LongNode.valueOf(number(Long.MIN_VALUE, Long.MAX_VALUE));
                case "uint16": return IntNode.valueOf((int) number(0, 0xffff));
                case "uint32": return LongNode.valueOf(number(0, 0xffffffffL));
                // Multiples of an eighth print and parse exactly.
                case "float64": return DoubleNode.valueOf(number(-1_000_000, 1_000_000) / 8.0);
                case "uuid": return TextNode.valueOf(uuid().toString());
                case "string": return TextNode.valueOf(string());
                case "bytes", "records": {
                    byte[] bytes = new byte[lean == Lean.LOW ? 0 : random.nextInt(40) == 0 ? 200 : random.nextInt(12)];
                    random.nextBytes(bytes);
                    return BinaryNode.valueOf(bytes);
                }
                default: return object(type, version);
            }
        }

        long number(long min, long max) {
            if (lean == Lean.LOW) return min;
            if (lean == Lean.HIGH) return max;
            return switch (random.nextInt(4)) {
                case 0 -> random.nextInt(128);
                case 1 -> Math.max(min, -1 - random.nextInt(3));
                case 2 -> Math.min(max, random.nextInt(1 << 16));
                default -> max == Long.MAX_VALUE ? random.nextLong() : min + (long) (random.nextDouble() * (max - min));
            };
        }

        Uuid uuid() {
            return switch (lean) {
                case LOW -> Uuid.ZERO_UUID;
                case HIGH -> new Uuid(-1, -1);
                case RANDOM -> new Uuid(random.nextLong(), random.nextLong());
            };
        }

        String string() {
            if (lean == Lean.LOW) return "";
            if (lean == Lean.RANDOM && random.nextInt(60) == 0) return "long-".repeat(30);
            return WORDS[random.nextInt(WORDS.length)];
        }
    }

    /** A message class of Kafka, with its schema and JSON converter. */
    static final class Subject {
        final String name;
        final Class<?> type;
        final Method read;
        final Method write;
        final JsonNode schema;

        Subject(String name) throws Exception {
            this.name = name;
            this.type = find(name);
            Class<?> converter = Class.forName(type.getName() + "JsonConverter");
            this.read = converter.getMethod("read", JsonNode.class, short.class);
            this.write = converter.getMethod("write", type, short.class, boolean.class);
            this.schema = schema(name);
        }

        static Class<?> find(String name) throws ClassNotFoundException {
            for (String where : PACKAGES) {
                for (String suffix : List.of("Data", "")) {
                    try {
                        return Class.forName(where + "." + name + suffix);
                    } catch (ClassNotFoundException e) {
                        // The next candidate.
                    }
                }
            }
            throw new ClassNotFoundException(name);
        }

        static JsonNode schema(String name) throws Exception {
            for (String where : List.of("/common/message/", "/message/")) {
                try (InputStream stream = GoldenMessages.class.getResourceAsStream(where + name + ".json")) {
                    if (stream != null) return MAPPER.readTree(stream);
                }
            }
            throw new IllegalArgumentException("no schema of " + name);
        }

        Message fresh() throws Exception {
            return (Message) type.getConstructor().newInstance();
        }

        Message fromJson(JsonNode node, short version) throws Exception {
            return (Message) read.invoke(null, node, version);
        }

        JsonNode toJson(Message message, short version) throws Exception {
            return (JsonNode) write.invoke(null, message, version, false);
        }
    }

    static JsonNode orEmpty(JsonNode node) {
        return node == null ? NODES.arrayNode() : node;
    }

    static byte[] bytes(Message message, short version) {
        ObjectSerializationCache cache = new ObjectSerializationCache();
        ByteBuffer buffer = ByteBuffer.allocate(message.size(cache, version));
        message.write(new ByteBufferAccessor(buffer), cache, version);
        return buffer.array();
    }

    /** Kafka prints the size of record data alone; the golden file needs the data, which the input has. */
    static void restoreRecords(JsonNode printed, JsonNode input) {
        if (printed instanceof ObjectNode object) {
            if (object.remove("recordsSizeInBytes") != null) object.set("records", input.get("records"));
            for (Map.Entry<String, JsonNode> entry : object.properties()) {
                if (input.get(entry.getKey()) != null) restoreRecords(entry.getValue(), input.get(entry.getKey()));
            }
        } else if (printed instanceof ArrayNode array) {
            for (int i = 0; i < array.size(); i++) restoreRecords(array.get(i), input.get(i));
        }
    }

    static String hex(byte[] bytes) {
        return HexFormat.of().formatHex(bytes);
    }

    /** The bytes in hex, or "-" when Kafka refuses to write the message in this version. */
    static String hexOrRefused(Message message, short version) {
        try {
            return hex(bytes(message, version));
        } catch (RuntimeException e) {
            return "-";
        }
    }

    static void value(PrintWriter out, Subject subject, int version, String kind, JsonNode input) throws Exception {
        Message message = subject.fromJson(input, (short) version);
        byte[] encoded = bytes(message, (short) version);
        Message decoded = subject.fresh();
        decoded.read(new ByteBufferAccessor(ByteBuffer.wrap(encoded)), (short) version);
        JsonNode printed = subject.toJson(decoded, (short) version);
        restoreRecords(printed, input);
        line(out, subject, version, kind, hex(encoded), MAPPER.writeValueAsString(printed));
        if (kind.equals("random") && subject.schema.get("fields") != null) {
            unknownTags(out, subject, version, message, printed);
            absent(out, subject, version, decoded, input);
        }
    }

    /** The same value with a tagged field that nobody knows. */
    static void unknownTags(PrintWriter out, Subject subject, int version, Message message, JsonNode printed) throws Exception {
        if (!Versions.parse(subject.schema.get("flexibleVersions")).has(version)) return;
        message.unknownTaggedFields().add(new RawTaggedField(9999, new byte[] {1, 2, 3}));
        line(out, subject, version, "unknown-tag", hex(bytes(message, (short) version)), MAPPER.writeValueAsString(printed));
    }

    /** What a decoded message says in the last version, where fields that its own version lacks show their defaults. */
    static void absent(PrintWriter out, Subject subject, int version, Message decoded, JsonNode input) throws Exception {
        short last = subject.fresh().highestSupportedVersion();
        if (version == last) return;
        JsonNode printed;
        try {
            printed = subject.toJson(decoded, last);
        } catch (InvocationTargetException e) {
            return;
        }
        restoreRecords(printed, input);
        line(out, subject, version, "as-last", hex(bytes(decoded, (short) version)), MAPPER.writeValueAsString(printed));
    }

    static void line(PrintWriter out, Subject subject, int version, String kind, String hex, String json) {
        out.println(subject.name + "\t" + version + "\t" + kind + "\t" + hex + "\t" + json);
    }

    static void cover(PrintWriter out, String name) throws Exception {
        Subject subject = new Subject(name);
        // The seed is the name, so that one message's cases do not depend on the others.
        Values values = new Values(subject.schema, new Random(name.hashCode()));
        short first = subject.fresh().lowestSupportedVersion();
        short last = subject.fresh().highestSupportedVersion();
        for (int version = first; version <= last; version++) {
            line(out, subject, version, "default", hexOrRefused(subject.fresh(), (short) version), "");
            for (Lean lean : List.of(Lean.LOW, Lean.HIGH, Lean.RANDOM, Lean.RANDOM)) {
                values.lean = lean;
                value(out, subject, version, lean.name().toLowerCase(), values.object(name, version));
            }
            if (version == last) continue;
            // A value with everything that the last version has, in a version that may lack some of it.
            for (Lean lean : List.of(Lean.LOW, Lean.RANDOM)) {
                values.lean = lean;
                ofLast(out, subject, version, last, values.object(name, last));
            }
        }
        // One by one, every field that a later version brought or dropped, in the version beside that change.
        values.lean = Lean.HIGH;
        for (Map.Entry<String, JsonNode> struct : values.structs.entrySet()) {
            for (JsonNode field : struct.getValue()) {
                Versions has = Versions.parse(field.has("versions") ? field.get("versions") : field.get("taggedVersions"));
                if (!has.has(last)) continue;
                int older = has.first() - 1;
                if (older < first) continue;
                String target = field.get("name").asText();
                ofLast(out, subject, older, last, values.sole(name, struct.getKey(), target, last, older));
            }
        }
    }

    static void ofLast(PrintWriter out, Subject subject, int version, short last, ObjectNode input) throws Exception {
        Message message = subject.fromJson(input, last);
        line(out, subject, version, "of-last", hexOrRefused(message, (short) version), MAPPER.writeValueAsString(input));
    }

    public static void main(String[] args) throws Exception {
        List<String> names = new ArrayList<>();
        try (Stream<Path> files = Files.walk(Path.of(args[0]))) {
            for (Path file : files.filter(path -> path.toString().endsWith(".schema")).toList()) {
                for (String line : Files.readAllLines(file)) {
                    String[] words = line.split(" ");
                    switch (words[0]) {
                        case "request" -> names.add(words[2] + "Request");
                        case "response" -> names.add(words[2] + "Response");
                        case "header", "data" -> names.add(words[1]);
                        case "record-key", "record-value" -> names.add(words[2]);
                        default -> { }
                    }
                }
            }
        }
        names.sort(null);
        try (PrintWriter out = new PrintWriter(Files.newBufferedWriter(Path.of(args[1]), StandardCharsets.UTF_8))) {
            out.println("# Every message and version as Apache Kafka writes it; made by GoldenMessages.java, see `generate`.");
            out.println("# message, version, kind, bytes in hex (- where Kafka refuses), JSON of the value.");
            out.println("# default: a fresh message. low, high, random: values. unknown-tag: with a tagged field to skip.");
            out.println("# as-last: the bytes of the version, the JSON of the last one. of-last: the other way round.");
            for (String name : names) cover(out, name);
        }
    }
}
