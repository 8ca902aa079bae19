import java.nio.ByteBuffer;
import java.util.HexFormat;
import java.util.List;

import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.coordinator.common.runtime.CoordinatorRecord;
import org.apache.kafka.coordinator.group.GroupCoordinatorRecordSerde;
import org.apache.kafka.coordinator.group.generated.GroupMetadataKey;
import org.apache.kafka.coordinator.group.generated.GroupMetadataValue;
import org.apache.kafka.coordinator.group.generated.OffsetCommitKey;
import org.apache.kafka.coordinator.group.generated.OffsetCommitValue;
import org.apache.kafka.coordinator.group.generated.LegacyOffsetCommitKey;
import org.apache.kafka.coordinator.group.generated.LegacyOffsetCommitValue;
import org.apache.kafka.server.common.ApiMessageAndVersion;

/** Prints records of __consumer_offsets as Kafka writes them: a name, the key and the value in hex ("-" for none). */
public class GoldenRecords {
    static final GroupCoordinatorRecordSerde SERDE = new GroupCoordinatorRecordSerde();

    static void print(String name, CoordinatorRecord record) {
        byte[] value = SERDE.serializeValue(record);
        HexFormat hex = HexFormat.of();
        System.out.println(name + " " + hex.formatHex(SERDE.serializeKey(record)) + " "
            + (value == null ? "-" : hex.formatHex(value)));
    }

    static void print(String name, ApiMessage key, ApiMessage value, int version) {
        print(name, CoordinatorRecord.record(key, new ApiMessageAndVersion(value, (short) version)));
    }

    static OffsetCommitKey offsetKey() {
        return new OffsetCommitKey().setGroup("grüße").setTopic("orders").setPartition(7);
    }

    static OffsetCommitValue offset() {
        return new OffsetCommitValue().setOffset(1234567890123L).setMetadata("meta ✓")
            .setCommitTimestamp(1700000000123L);
    }

    static GroupMetadataValue.MemberMetadata member(String id, String instance, int version) {
        GroupMetadataValue.MemberMetadata member = new GroupMetadataValue.MemberMetadata()
            .setMemberId(id).setClientId("client").setClientHost("/10.0.0.1").setSessionTimeout(45000)
            .setSubscription(new byte[] {0, 1, 0, 0, 0, 1, 0, 6, 'o', 'r', 'd', 'e', 'r', 's', -1, -1, -1, -1})
            .setAssignment(new byte[] {9, 8, 7});
        if (version >= 1) member.setRebalanceTimeout(300000);
        if (version >= 3) member.setGroupInstanceId(instance);
        return member;
    }

    public static void main(String[] args) {
        for (int version = 0; version <= 4; version++) {
            OffsetCommitValue value = offset();
            if (version == 1) value.setExpireTimestamp(1700000009999L);
            if (version >= 3) value.setLeaderEpoch(5);
            print("offset-v" + version, offsetKey(), value, version);
        }
        print("offset-v4-topic-id", offsetKey(), offset().setTopicId(new Uuid(1, 2)), 4);
        print("offset-v4-bare", offsetKey(), new OffsetCommitValue().setOffset(0).setMetadata("")
            .setCommitTimestamp(0), 4);
        print("offset-tombstone", CoordinatorRecord.tombstone(offsetKey()));
        print("offset-legacy", new LegacyOffsetCommitKey().setGroup("grüße").setTopic("orders").setPartition(7),
            new LegacyOffsetCommitValue().setOffset(42).setMetadata("m").setCommitTimestamp(1700000000123L), 0);

        for (int version = 0; version <= 4; version++) {
            GroupMetadataValue value = new GroupMetadataValue().setProtocolType("consumer").setGeneration(17)
                .setProtocol("range").setLeader("m-1")
                .setMembers(List.of(member("m-1", null, version), member("m-2", "instance-2", version)));
            if (version >= 2) value.setCurrentStateTimestamp(1700000000123L);
            print("group-v" + version, new GroupMetadataKey().setGroup("grüße"), value, version);
        }
        print("group-v3-empty", new GroupMetadataKey().setGroup("g"), new GroupMetadataValue()
            .setProtocolType("consumer").setGeneration(18).setProtocol(null).setLeader(null)
            .setCurrentStateTimestamp(1700000000456L).setMembers(List.of()), 3);
        print("group-v3-new", new GroupMetadataKey().setGroup("g"), new GroupMetadataValue()
            .setProtocolType("").setGeneration(0).setProtocol(null).setLeader(null)
            .setCurrentStateTimestamp(1700000000456L).setMembers(List.of()), 3);
        print("group-tombstone", CoordinatorRecord.tombstone(new GroupMetadataKey().setGroup("g")));
    }
}
