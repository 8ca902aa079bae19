package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
)

func saramaCases() []namedCase {
	codecs := []sarama.CompressionCodec{
		sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy, sarama.CompressionLZ4, sarama.CompressionZSTD,
	}
	var cases []namedCase
	for _, codec := range codecs {
		cases = append(cases, namedCase{"sarama_carries_everything_" + codec.String(), func(b string) error {
			return saramaCarries(b, codec, false)
		}})
	}
	return append(cases,
		namedCase{"sarama_idempotent", func(b string) error { return saramaCarries(b, sarama.CompressionZSTD, true) }},
		namedCase{"sarama_admin", saramaAdmin},
	)
}

func saramaConfig() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = sarama.MaxVersion
	config.Producer.Return.Successes = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Flush.Frequency = 20 * time.Millisecond
	config.Net.MaxOpenRequests = 1
	config.Consumer.Return.Errors = true
	return config
}

func toSarama(topic string, r Record) *sarama.ProducerMessage {
	message := &sarama.ProducerMessage{Topic: topic, Timestamp: time.UnixMilli(r.Timestamp)}
	if r.Key != nil {
		message.Key = sarama.ByteEncoder(r.Key)
	}
	if r.Value != nil {
		message.Value = sarama.ByteEncoder(r.Value)
	}
	for _, h := range r.Headers {
		message.Headers = append(message.Headers, sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value})
	}
	return message
}

// saramaRead consumes by assignment, without a group.
func saramaRead(bootstrap, topic string, partition int32, from int64, count int) ([]Record, error) {
	consumer, err := sarama.NewConsumer([]string{bootstrap}, saramaConfig())
	if err != nil {
		return nil, err
	}
	defer consumer.Close()
	reader, err := consumer.ConsumePartition(topic, partition, from)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	var records []Record
	deadline := time.After(timeout)
	for len(records) < count {
		select {
		case m := <-reader.Messages():
			record := Record{Offset: m.Offset, Key: m.Key, Value: m.Value, Timestamp: m.Timestamp.UnixMilli()}
			for _, h := range m.Headers {
				record.Headers = append(record.Headers, Header{string(h.Key), h.Value})
			}
			records = append(records, record)
		case err := <-reader.Errors():
			return nil, err
		case <-deadline:
			return nil, fmt.Errorf("%d of %d records within %v", len(records), count, timeout)
		}
	}
	return records, nil
}

func saramaCarries(bootstrap string, codec sarama.CompressionCodec, idempotent bool) error {
	config := saramaConfig()
	config.Producer.Compression = codec
	config.Producer.Idempotent = idempotent
	admin, err := sarama.NewClusterAdmin([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	defer admin.Close()
	topic := topicName("sarama")
	if err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false); err != nil {
		return err
	}
	producer, err := sarama.NewSyncProducer([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	defer producer.Close()
	want := varied(700)
	var messages []*sarama.ProducerMessage
	for _, r := range want {
		messages = append(messages, toSarama(topic, r))
	}
	if err := producer.SendMessages(messages); err != nil {
		return err
	}
	for i, m := range messages {
		if m.Offset != int64(i) {
			return fmt.Errorf("record %d has offset %d", i, m.Offset)
		}
	}
	for name, read := range map[string]func(string, string, int32, int64, int) ([]Record, error){"sarama": saramaRead, "franz-go": franzRead} {
		got, err := read(bootstrap, topic, 0, 0, len(want))
		if err != nil {
			return fmt.Errorf("read by %s: %w", name, err)
		}
		if err := compare(got, want); err != nil {
			return fmt.Errorf("read by %s: %w", name, err)
		}
	}
	return nil
}

func saramaAdmin(bootstrap string) error {
	admin, err := sarama.NewClusterAdmin([]string{bootstrap}, saramaConfig())
	if err != nil {
		return err
	}
	defer admin.Close()
	topic := topicName("admin")
	retention := "7200000"
	detail := &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1, ConfigEntries: map[string]*string{"retention.ms": &retention}}
	if err := admin.CreateTopic(topic, detail, false); err != nil {
		return err
	}
	if err := admin.CreateTopic(topic, detail, false); !errors.Is(err, sarama.ErrTopicAlreadyExists) {
		return fmt.Errorf("an existing topic: got %v", err)
	}
	if err := admin.CreatePartitions(topic, 4, nil, false); err != nil {
		return err
	}
	described, err := admin.DescribeTopics([]string{topic})
	if err != nil {
		return err
	}
	if count := len(described[0].Partitions); count != 4 {
		return fmt.Errorf("got %d partitions, want 4", count)
	}
	configs, err := admin.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"retention.ms"}})
	if err != nil {
		return err
	}
	if len(configs) != 1 || configs[0].Value != retention {
		return fmt.Errorf("retention.ms: got %v, want %s", configs, retention)
	}
	brokers, _, err := admin.DescribeCluster()
	if err != nil {
		return err
	}
	if len(brokers) != 1 {
		return fmt.Errorf("got %d brokers, want 1", len(brokers))
	}
	return admin.DeleteTopic(topic)
}
