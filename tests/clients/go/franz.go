package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func franzCases() []namedCase {
	codecs := []struct {
		name  string
		codec kgo.CompressionCodec
	}{
		{"none", kgo.NoCompression()},
		{"gzip", kgo.GzipCompression()},
		{"snappy", kgo.SnappyCompression()},
		{"lz4", kgo.Lz4Compression()},
		{"zstd", kgo.ZstdCompression()},
	}
	var cases []namedCase
	for _, c := range codecs {
		cases = append(cases,
			namedCase{"franz_carries_everything_" + c.name, func(b string) error {
				return franzCarries(b, kgo.ProducerBatchCompression(c.codec))
			}},
			namedCase{"franz_plain_producer_" + c.name, func(b string) error {
				return franzCarries(b, kgo.ProducerBatchCompression(c.codec), kgo.DisableIdempotentWrite(),
					kgo.MaxProduceRequestsInflightPerBroker(1))
			}},
		)
	}
	return append(cases,
		namedCase{"franz_many_partitions", franzManyPartitions},
		namedCase{"franz_large_records", franzLarge},
		namedCase{"franz_auto_creation", franzAutoCreation},
		namedCase{"franz_offsets", franzOffsets},
		namedCase{"franz_delete_and_recreate", franzRecreate},
		namedCase{"franz_refusals", franzRefusals},
	)
}

func withFranz(bootstrap string, run func(ctx context.Context, client *kgo.Client, admin *kadm.Client) error, options ...kgo.Opt) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	client, err := kgo.NewClient(append(options, kgo.SeedBrokers(bootstrap), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(50*time.Millisecond))...)
	if err != nil {
		return err
	}
	defer client.Close()
	return run(ctx, client, kadm.NewClient(client))
}

func toFranz(topic string, partition int32, r Record) *kgo.Record {
	record := &kgo.Record{Topic: topic, Partition: partition, Key: r.Key, Value: r.Value, Timestamp: time.UnixMilli(r.Timestamp)}
	for _, h := range r.Headers {
		record.Headers = append(record.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return record
}

func fromFranz(r *kgo.Record) Record {
	record := Record{Offset: r.Offset, Key: r.Key, Value: r.Value, Timestamp: r.Timestamp.UnixMilli()}
	for _, h := range r.Headers {
		record.Headers = append(record.Headers, Header{h.Key, h.Value})
	}
	return record
}

// franzRead consumes by assignment, without a group.
func franzRead(bootstrap, topic string, partition int32, from int64, count int) ([]Record, error) {
	var records []Record
	err := withFranz(bootstrap, func(ctx context.Context, client *kgo.Client, _ *kadm.Client) error {
		for len(records) < count {
			fetches := client.PollRecords(ctx, count-len(records))
			if err := fetches.Err(); err != nil {
				return fmt.Errorf("after %d of %d records: %w", len(records), count, err)
			}
			fetches.EachRecord(func(r *kgo.Record) { records = append(records, fromFranz(r)) })
		}
		return nil
	}, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(from)}}))
	return records, err
}

func franzCarries(bootstrap string, options ...kgo.Opt) error {
	topic := topicName("codec")
	want := varied(1000)
	err := withFranz(bootstrap, func(ctx context.Context, client *kgo.Client, admin *kadm.Client) error {
		if _, err := admin.CreateTopic(ctx, 1, 1, nil, topic); err != nil {
			return err
		}
		var batch []*kgo.Record
		for _, r := range want {
			batch = append(batch, toFranz(topic, 0, r))
		}
		for i, result := range client.ProduceSync(ctx, batch...) {
			if result.Err != nil {
				return result.Err
			}
			if batch[i].Offset != int64(i) {
				return fmt.Errorf("record %d has offset %d", i, batch[i].Offset)
			}
		}
		return nil
	}, append(options, kgo.ProducerLinger(20*time.Millisecond))...)
	if err != nil {
		return err
	}
	byFranz, err := franzRead(bootstrap, topic, 0, 0, len(want))
	if err != nil {
		return err
	}
	if err := compare(byFranz, want); err != nil {
		return fmt.Errorf("read by franz-go: %w", err)
	}
	bySarama, err := saramaRead(bootstrap, topic, 0, 0, len(want))
	if err != nil {
		return err
	}
	if err := compare(bySarama, want); err != nil {
		return fmt.Errorf("read by sarama: %w", err)
	}
	return nil
}

func franzManyPartitions(bootstrap string) error {
	topic := topicName("many")
	const partitions, each = 30, 200
	err := withFranz(bootstrap, func(ctx context.Context, client *kgo.Client, admin *kadm.Client) error {
		if _, err := admin.CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
			return err
		}
		var batch []*kgo.Record
		for i := range partitions * each {
			batch = append(batch, toFranz(topic, int32(i%partitions), Record{Value: []byte(fmt.Sprint(i)), Timestamp: baseTimestampMs}))
		}
		return client.ProduceSync(ctx, batch...).FirstErr()
	})
	if err != nil {
		return err
	}
	for partition := range partitions {
		var want []Record
		for i := range each {
			want = append(want, Record{Offset: int64(i), Value: []byte(fmt.Sprint(i*partitions + partition)), Timestamp: baseTimestampMs})
		}
		got, err := franzRead(bootstrap, topic, int32(partition), 0, each)
		if err != nil {
			return err
		}
		if err := compare(got, want); err != nil {
			return fmt.Errorf("partition %d: %w", partition, err)
		}
	}
	return nil
}

func franzLarge(bootstrap string) error {
	return withFranz(bootstrap, func(ctx context.Context, client *kgo.Client, admin *kadm.Client) error {
		topic := topicName("large")
		if _, err := admin.CreateTopic(ctx, 1, 1, nil, topic); err != nil {
			return err
		}
		fits := Record{Value: make([]byte, 1_048_000), Timestamp: baseTimestampMs}
		if err := client.ProduceSync(ctx, toFranz(topic, 0, fits)).FirstErr(); err != nil {
			return err
		}
		over := Record{Value: make([]byte, 1_100_000), Timestamp: baseTimestampMs}
		if err := client.ProduceSync(ctx, toFranz(topic, 0, over)).FirstErr(); !errors.Is(err, kerr.MessageTooLarge) {
			return fmt.Errorf("a record over the limit: got %v, want MESSAGE_TOO_LARGE", err)
		}
		got, err := franzRead(bootstrap, topic, 0, 0, 1)
		if err != nil {
			return err
		}
		return compare(got, []Record{fits})
	}, kgo.ProducerBatchMaxBytes(4<<20), kgo.BrokerMaxWriteBytes(16<<20), kgo.ProducerBatchCompression(kgo.NoCompression()))
}

func franzAutoCreation(bootstrap string) error {
	return withFranz(bootstrap, func(ctx context.Context, client *kgo.Client, admin *kadm.Client) error {
		topic := topicName("auto")
		if err := client.ProduceSync(ctx, toFranz(topic, 2, Record{Value: []byte("x")})).FirstErr(); err != nil {
			return err
		}
		described, err := admin.ListTopics(ctx, topic)
		if err != nil {
			return err
		}
		if count := len(described[topic].Partitions); count != 3 {
			return fmt.Errorf("got %d partitions, want 3", count)
		}
		return nil
	}, kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(20))
}

func franzOffsets(bootstrap string) error {
	return withFranz(bootstrap, func(ctx context.Context, client *kgo.Client, admin *kadm.Client) error {
		topic := topicName("offsets")
		if _, err := admin.CreateTopic(ctx, 1, 1, nil, topic); err != nil {
			return err
		}
		for i := range 20 {
			r := Record{Value: []byte("x"), Timestamp: baseTimestampMs + int64(i)*1000}
			if err := client.ProduceSync(ctx, toFranz(topic, 0, r)).FirstErr(); err != nil {
				return err
			}
		}
		if _, err := admin.DeleteRecords(ctx, kadm.Offsets{topic: {0: kadm.Offset{Topic: topic, Partition: 0, At: 5}}}); err != nil {
			return err
		}
		asks := []struct {
			what string
			ask  func() (kadm.ListedOffsets, error)
			want int64
		}{
			{"start", func() (kadm.ListedOffsets, error) { return admin.ListStartOffsets(ctx, topic) }, 5},
			{"end", func() (kadm.ListedOffsets, error) { return admin.ListEndOffsets(ctx, topic) }, 20},
			{"committed", func() (kadm.ListedOffsets, error) { return admin.ListCommittedOffsets(ctx, topic) }, 20},
			{"max timestamp", func() (kadm.ListedOffsets, error) { return admin.ListMaxTimestampOffsets(ctx, topic) }, 19},
			{"after 11.5 s", func() (kadm.ListedOffsets, error) {
				return admin.ListOffsetsAfterMilli(ctx, baseTimestampMs+11_500, topic)
			}, 12},
		}
		for _, a := range asks {
			listed, err := a.ask()
			if err == nil {
				err = listed.Error()
			}
			if err != nil {
				return fmt.Errorf("%s: %w", a.what, err)
			}
			if got, _ := listed.Lookup(topic, 0); got.Offset != a.want {
				return fmt.Errorf("%s: got %d, want %d", a.what, got.Offset, a.want)
			}
		}
		return nil
	})
}

func franzRecreate(bootstrap string) error {
	return withFranz(bootstrap, func(ctx context.Context, client *kgo.Client, admin *kadm.Client) error {
		topic := topicName("again")
		var ids []kadm.TopicID
		for round := range 3 {
			created, err := admin.CreateTopic(ctx, 1, 1, nil, topic)
			if err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
			ids = append(ids, created.ID)
			if round > 0 && ids[round] == ids[round-1] {
				return fmt.Errorf("the recreated topic has the old id %v", created.ID)
			}
			// A client of its own: one that knew the old topic may hold on to it for a while.
			err = withFranz(bootstrap, func(ctx context.Context, client *kgo.Client, _ *kadm.Client) error {
				r := Record{Value: []byte(fmt.Sprint(round)), Timestamp: baseTimestampMs}
				return client.ProduceSync(ctx, toFranz(topic, 0, r)).FirstErr()
			})
			if err != nil {
				return err
			}
			got, err := franzRead(bootstrap, topic, 0, 0, 1)
			if err != nil {
				return err
			}
			if err := compare(got, []Record{{Value: []byte(fmt.Sprint(round)), Timestamp: baseTimestampMs}}); err != nil {
				return err
			}
			if _, err := admin.DeleteTopic(ctx, topic); err != nil {
				return err
			}
		}
		return nil
	})
}

func franzRefusals(bootstrap string) error {
	return withFranz(bootstrap, func(ctx context.Context, _ *kgo.Client, admin *kadm.Client) error {
		topic := topicName("refused")
		if _, err := admin.CreateTopic(ctx, 1, 1, nil, topic); err != nil {
			return err
		}
		soon := "soon"
		attempts := []struct {
			what string
			run  func() error
			want error
		}{
			{"existing topic", func() error { _, err := admin.CreateTopic(ctx, 1, 1, nil, topic); return err }, kerr.TopicAlreadyExists},
			{"illegal name", func() error { _, err := admin.CreateTopic(ctx, 1, 1, nil, "a b"); return err }, kerr.InvalidTopicException},
			{"3 replicas", func() error { _, err := admin.CreateTopic(ctx, 1, 3, nil, topic+"3"); return err }, kerr.InvalidReplicationFactor},
			{"0 partitions", func() error { _, err := admin.CreateTopic(ctx, 0, 1, nil, topic+"0"); return err }, kerr.InvalidPartitions},
			{"wrong config", func() error {
				_, err := admin.CreateTopic(ctx, 1, 1, map[string]*string{"retention.ms": &soon}, topic+"c")
				return err
			}, kerr.InvalidConfig},
			{"unknown topic", func() error { _, err := admin.DeleteTopic(ctx, topic+"-none"); return err }, kerr.UnknownTopicOrPartition},
		}
		for _, a := range attempts {
			if err := a.run(); !errors.Is(err, a.want) {
				return fmt.Errorf("%s: got %v, want %v", a.what, err, a.want)
			}
		}
		return nil
	})
}
