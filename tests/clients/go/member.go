package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

// sayLock keeps lines whole: sarama calls its handler from many threads.
var sayLock sync.Mutex

// say writes one event for tests/groups/load.py, a JSON object a line.
func say(name string, fields map[string]any) {
	sayLock.Lock()
	defer sayLock.Unlock()
	fields["name"] = name
	fields["time_ns"] = time.Now().UnixNano()
	line, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

// runMember is one member of a group until SIGTERM: CLIENT BOOTSTRAP TOPIC GROUP ASSIGNOR NAME SESSION-MS INSTANCE.
func runMember(arguments []string) error {
	client, bootstrap, topic, group, assignor, name := arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]
	sessionMs, err := strconv.Atoi(arguments[6])
	if err != nil {
		return err
	}
	session, instance := time.Duration(sessionMs)*time.Millisecond, arguments[7]
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if client == "franz" {
		return franzLoadMember(ctx, bootstrap, topic, group, assignor, name, session, instance)
	}
	return saramaLoadMember(ctx, bootstrap, topic, group, assignor, name, session, instance)
}

func franzLoadMember(ctx context.Context, bootstrap, topic, group, assignor, name string, session time.Duration, instance string) error {
	revoked := func(_ context.Context, _ *kgo.Client, p map[string][]int32) {
		say("revoked", map[string]any{"partitions": p[topic]})
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ClientID(name),
		kgo.Balancers(franzBalancers[assignor]()), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(session),
		kgo.HeartbeatInterval(400 * time.Millisecond), kgo.RebalanceTimeout(20 * time.Second),
		kgo.OnPartitionsAssigned(func(_ context.Context, client *kgo.Client, p map[string][]int32) {
			_, generation := client.GroupMetadata()
			say("assigned", map[string]any{"partitions": p[topic], "generation": generation})
		}),
		kgo.OnPartitionsRevoked(revoked), kgo.OnPartitionsLost(revoked),
	}
	if instance != "" {
		options = append(options, kgo.InstanceID(instance))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		fetches := client.PollFetches(ctx)
		var ranges [][3]int64
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			if len(p.Records) > 0 {
				ranges = append(ranges, [3]int64{int64(p.Partition), p.Records[0].Offset, p.Records[len(p.Records)-1].Offset})
			}
		})
		if len(ranges) > 0 {
			say("consumed", map[string]any{"ranges": ranges})
			// What cannot be committed is read again by whoever has the partition then.
			if err := client.CommitUncommittedOffsets(context.Background()); err != nil {
				say("not committed", map[string]any{"why": err.Error()})
			}
		}
		client.AllowRebalance()
	}
	client.CloseAllowingRebalance()
	say("left", map[string]any{})
	return nil
}

// loadHandler says what a sarama member is given.
type loadHandler struct{ topic string }

func (h loadHandler) Setup(session sarama.ConsumerGroupSession) error {
	say("assigned", map[string]any{"partitions": session.Claims()[h.topic], "generation": session.GenerationID()})
	return nil
}

func (h loadHandler) Cleanup(session sarama.ConsumerGroupSession) error {
	say("revoked", map[string]any{"partitions": session.Claims()[h.topic]})
	return nil
}

func (h loadHandler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		say("consumed", map[string]any{"ranges": [][3]int64{{int64(message.Partition), message.Offset, message.Offset}}})
		session.MarkMessage(message, "")
		if len(claim.Messages()) == 0 {
			session.Commit()
		}
	}
	return nil
}

func saramaLoadMember(ctx context.Context, bootstrap, topic, group, assignor, name string, session time.Duration, instance string) error {
	config := saramaGroupConfig(assignor)
	config.ClientID = name
	config.Consumer.Group.Session.Timeout = session
	config.Consumer.Group.Heartbeat.Interval = 400 * time.Millisecond
	config.Consumer.Group.Rebalance.Timeout = 20 * time.Second
	config.Consumer.Group.InstanceId = instance
	for ctx.Err() == nil {
		consumer, err := sarama.NewConsumerGroup([]string{bootstrap}, group, config)
		if err != nil {
			return err
		}
		for ctx.Err() == nil {
			if err := consumer.Consume(ctx, []string{topic}, loadHandler{topic}); err != nil && ctx.Err() == nil {
				say("not consumed", map[string]any{"why": err.Error()})
				time.Sleep(200 * time.Millisecond)
			}
		}
		if err := consumer.Close(); err != nil && !errors.Is(err, sarama.ErrClosedConsumerGroup) {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	say("left", map[string]any{})
	return nil
}
