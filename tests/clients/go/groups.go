package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func groupCases() []namedCase {
	balancers := []kgo.GroupBalancer{
		kgo.RangeBalancer(), kgo.RoundRobinBalancer(), kgo.StickyBalancer(), kgo.CooperativeStickyBalancer(),
	}
	var cases []namedCase
	for _, balancer := range balancers {
		cases = append(cases, namedCase{"franz_group_" + balancer.ProtocolName(), func(b string) error {
			return franzGroup(b, balancer)
		}})
	}
	return append(cases, namedCase{"franz_static_member", franzStaticMember})
}

// groupTopic makes a topic with numbered records in every partition.
func groupTopic(bootstrap string, partitions int32, each int) (string, error) {
	topic := topicName("group")
	return topic, withFranz(bootstrap, func(ctx context.Context, client *kgo.Client, admin *kadm.Client) error {
		if _, err := admin.CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
			return err
		}
		var batch []*kgo.Record
		for i := range int(partitions) * each {
			batch = append(batch, toFranz(topic, int32(i)%partitions, Record{Value: []byte(fmt.Sprint(i)), Timestamp: baseTimestampMs}))
		}
		return client.ProduceSync(ctx, batch...).FirstErr()
	})
}

// drain polls one member until nothing came for a second; what it saw is added to seen and committed.
func drain(ctx context.Context, client *kgo.Client, seen map[string]int) (int, error) {
	count := 0
	for {
		quiet, cancel := context.WithTimeout(ctx, 3*time.Second)
		fetches := client.PollFetches(quiet)
		cancel()
		if ctx.Err() != nil {
			return count, ctx.Err()
		}
		got := 0
		fetches.EachRecord(func(r *kgo.Record) {
			seen[fmt.Sprintf("%d/%d", r.Partition, r.Offset)]++
			got++
		})
		if got == 0 {
			return count, client.CommitUncommittedOffsets(ctx)
		}
		count += got
	}
}

// franzGroup reads a topic with two members, one of which leaves in between: every record, none twice.
func franzGroup(bootstrap string, balancer kgo.GroupBalancer) error {
	const partitions, each = 6, 50
	topic, err := groupTopic(bootstrap, partitions, each)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*timeout)
	defer cancel()
	seen := map[string]int{}
	member := func() (*kgo.Client, error) {
		return kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(topic), kgo.ConsumeTopics(topic),
			kgo.Balancers(balancer), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	}
	first, err := member()
	if err != nil {
		return err
	}
	if _, err := drain(ctx, first, seen); err != nil {
		return fmt.Errorf("first member: %w", err)
	}
	second, err := member()
	if err != nil {
		return err
	}
	for range 3 {
		for _, client := range []*kgo.Client{first, second} {
			if _, err := drain(ctx, client, seen); err != nil {
				return err
			}
		}
	}
	first.LeaveGroup()
	first.Close()
	if _, err := drain(ctx, second, seen); err != nil {
		return err
	}
	second.LeaveGroup()
	second.Close()
	if len(seen) != partitions*each {
		return fmt.Errorf("saw %d records, want %d", len(seen), partitions*each)
	}
	for place, times := range seen {
		if times != 1 {
			return fmt.Errorf("record %s was delivered %d times", place, times)
		}
	}
	return committedEverywhere(bootstrap, topic, partitions, each)
}

func committedEverywhere(bootstrap, group string, partitions int32, want int64) error {
	return withFranz(bootstrap, func(ctx context.Context, _ *kgo.Client, admin *kadm.Client) error {
		offsets, err := admin.FetchOffsets(ctx, group)
		if err != nil {
			return err
		}
		for partition := range partitions {
			if at, found := offsets.Lookup(group, partition); !found || at.At != want {
				return fmt.Errorf("partition %d: committed %v, want %d", partition, at.At, want)
			}
		}
		return nil
	})
}

// franzStaticMember restarts a static member within its session: same member, no second delivery.
func franzStaticMember(bootstrap string) error {
	topic, err := groupTopic(bootstrap, 2, 20)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*timeout)
	defer cancel()
	seen := map[string]int{}
	generations := []int32{}
	for range 2 {
		client, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(topic), kgo.ConsumeTopics(topic),
			kgo.InstanceID("static-1"), kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			return err
		}
		if _, err := drain(ctx, client, seen); err != nil {
			return err
		}
		_, generation := client.GroupMetadata()
		generations = append(generations, generation)
		// A static member that closes does not leave its group.
		client.Close()
	}
	if generations[0] != generations[1] {
		return fmt.Errorf("the restart of a static member cost a rebalance: generations %v", generations)
	}
	if len(seen) != 40 {
		return fmt.Errorf("saw %d records, want 40", len(seen))
	}
	return committedEverywhere(bootstrap, topic, 2, 20)
}
