package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// How long one wait for a group may take: longer than a session and a rebalance on a busy machine.
const groupTimeout = 60 * time.Second

var franzBalancers = map[string]func() kgo.GroupBalancer{
	"range":              kgo.RangeBalancer,
	"roundrobin":         kgo.RoundRobinBalancer,
	"sticky":             kgo.StickyBalancer,
	"cooperative-sticky": kgo.CooperativeStickyBalancer,
}

var saramaBalancers = map[string]func() sarama.BalanceStrategy{
	"range":      sarama.NewBalanceStrategyRange,
	"roundrobin": sarama.NewBalanceStrategyRoundRobin,
	"sticky":     sarama.NewBalanceStrategySticky,
}

func groupCases() []namedCase {
	var cases []namedCase
	for _, name := range []string{"range", "roundrobin", "sticky", "cooperative-sticky"} {
		cases = append(cases, namedCase{"franz_group_" + name, func(b string) error { return franzGroup(b, name) }})
	}
	for _, name := range []string{"range", "roundrobin", "sticky"} {
		cases = append(cases, namedCase{"sarama_group_" + name, func(b string) error { return saramaGroup(b, name) }})
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
		return moreRecords(ctx, client, topic, partitions, each)
	})
}

func moreRecords(ctx context.Context, client *kgo.Client, topic string, partitions int32, each int) error {
	var batch []*kgo.Record
	for i := range int(partitions) * each {
		batch = append(batch, toFranz(topic, int32(i)%partitions, Record{Value: []byte(fmt.Sprint(i)), Timestamp: baseTimestampMs}))
	}
	return client.ProduceSync(ctx, batch...).FirstErr()
}

// deliveries counts how often each place was delivered, to whichever member, and who owns what now.
type deliveries struct {
	lock  sync.Mutex
	times map[string]int
	owned map[string]int
	err   error
}

func newDeliveries() *deliveries {
	return &deliveries{times: map[string]int{}, owned: map[string]int{}}
}

func (d *deliveries) saw(partition int32, offset int64) {
	d.lock.Lock()
	defer d.lock.Unlock()
	d.times[fmt.Sprintf("%d/%d", partition, offset)]++
}

// owns notes how many partitions a member has.
func (d *deliveries) owns(member string, change int) {
	d.lock.Lock()
	defer d.lock.Unlock()
	d.owned[member] += change
}

func (d *deliveries) failed(err error) {
	d.lock.Lock()
	defer d.lock.Unlock()
	d.err = errors.Join(d.err, err)
}

// until waits for so many places, and for so many members that share so many partitions.
func (d *deliveries) until(places, members, partitions int) error {
	deadline := time.Now().Add(groupTimeout)
	for {
		d.lock.Lock()
		err, seen, owners, owned := d.err, len(d.times), 0, 0
		for _, count := range d.owned {
			if count > 0 {
				owners++
				owned += count
			}
		}
		d.lock.Unlock()
		if err != nil {
			return err
		}
		if seen >= places && owners == members && owned == partitions {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d records came, and %d partitions have %d owners; want %d and %d", seen, places, owned, owners, partitions, members)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// twice is the first place that was delivered more than once.
func (d *deliveries) twice() error {
	d.lock.Lock()
	defer d.lock.Unlock()
	for place, times := range d.times {
		if times != 1 {
			return fmt.Errorf("record %s was delivered %d times", place, times)
		}
	}
	return nil
}

// franzMember polls and commits until it is told to leave. No rebalance comes between a poll and its commit, so that a
// record is delivered once however often partitions move.
type franzMember struct {
	client *kgo.Client
	stop   context.CancelFunc
	ended  chan struct{}
}

func joinFranz(bootstrap, topic, name string, seen *deliveries, options ...kgo.Opt) (*franzMember, error) {
	count := func(partitions map[string][]int32) int { return len(partitions[topic]) }
	client, err := kgo.NewClient(append(options,
		kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(topic), kgo.ConsumeTopics(topic),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.HeartbeatInterval(500*time.Millisecond),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { seen.owns(name, count(p)) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { seen.owns(name, -count(p)) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, p map[string][]int32) { seen.owns(name, -count(p)) }),
	)...)
	if err != nil {
		return nil, err
	}
	polling, stop := context.WithCancel(context.Background())
	member := &franzMember{client, stop, make(chan struct{})}
	go func() {
		defer close(member.ended)
		for polling.Err() == nil {
			fetches := client.PollFetches(polling)
			if err := fetches.Err(); err != nil && polling.Err() == nil {
				seen.failed(fmt.Errorf("%s polls: %w", name, err))
			}
			fetches.EachRecord(func(r *kgo.Record) { seen.saw(r.Partition, r.Offset) })
			if err := client.CommitUncommittedOffsets(context.Background()); err != nil {
				seen.failed(fmt.Errorf("%s commits: %w", name, err))
			}
			client.AllowRebalance()
		}
	}()
	return member, nil
}

// close ends the member; a static one stays in its group until its session ends.
func (m *franzMember) close() {
	m.stop()
	<-m.ended
	m.client.CloseAllowingRebalance()
}

// franzGroup reads a topic with members that join and leave while records come: every record, none twice.
func franzGroup(bootstrap, balancer string) error {
	const partitions, each = 6, 50
	topic, err := groupTopic(bootstrap, partitions, each)
	if err != nil {
		return err
	}
	seen := newDeliveries()
	join := func(name string) (*franzMember, error) {
		return joinFranz(bootstrap, topic, name, seen, kgo.Balancers(franzBalancers[balancer]()))
	}
	wanted := 0
	more := func(members int) error {
		wanted += partitions * each
		if wanted > partitions*each {
			err := withFranz(bootstrap, func(ctx context.Context, client *kgo.Client, _ *kadm.Client) error {
				return moreRecords(ctx, client, topic, partitions, each)
			})
			if err != nil {
				return err
			}
		}
		return seen.until(wanted, members, partitions)
	}
	first, err := join("first")
	if err != nil {
		return err
	}
	if err := more(1); err != nil {
		return fmt.Errorf("one member: %w", err)
	}
	second, err := join("second")
	if err != nil {
		return err
	}
	if err := more(2); err != nil {
		return fmt.Errorf("a second joined: %w", err)
	}
	first.close()
	if err := more(1); err != nil {
		return fmt.Errorf("the first left: %w", err)
	}
	second.close()
	if err := seen.twice(); err != nil {
		return err
	}
	return committedEverywhere(bootstrap, topic, partitions, int64(wanted/partitions))
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

// franzStaticMember restarts a static member within its session: no rebalance, no second delivery.
func franzStaticMember(bootstrap string) error {
	const partitions, each = 2, 20
	topic, err := groupTopic(bootstrap, partitions, each)
	if err != nil {
		return err
	}
	seen := newDeliveries()
	generations := []int32{}
	for range 2 {
		member, err := joinFranz(bootstrap, topic, "static", seen, kgo.InstanceID("static-1"))
		if err != nil {
			return err
		}
		if err := seen.until(partitions*each, 1, partitions); err != nil {
			return err
		}
		_, generation := member.client.GroupMetadata()
		generations = append(generations, generation)
		member.close()
	}
	if generations[0] != generations[1] || generations[0] < 1 {
		return fmt.Errorf("the restart of a static member cost a rebalance: generations %v", generations)
	}
	if err := seen.twice(); err != nil {
		return err
	}
	return committedEverywhere(bootstrap, topic, partitions, each)
}

// saramaHandler commits whenever nothing more is at hand, and notes what it saw.
type saramaHandler struct {
	name string
	seen *deliveries
}

func (h saramaHandler) Setup(session sarama.ConsumerGroupSession) error {
	for _, partitions := range session.Claims() {
		h.seen.owns(h.name, len(partitions))
	}
	return nil
}

func (h saramaHandler) Cleanup(session sarama.ConsumerGroupSession) error {
	for _, partitions := range session.Claims() {
		h.seen.owns(h.name, -len(partitions))
	}
	return nil
}

func (h saramaHandler) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		h.seen.saw(message.Partition, message.Offset)
		session.MarkMessage(message, "")
		if len(claim.Messages()) == 0 {
			session.Commit()
		}
	}
	return nil
}

func saramaGroupConfig(balancer string) *sarama.Config {
	config := saramaConfig()
	config.Consumer.Return.Errors = false
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Enable = false
	config.Consumer.Group.Session.Timeout = 10 * time.Second
	config.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{saramaBalancers[balancer]()}
	return config
}

// joinSarama runs one member; the result makes it leave.
func joinSarama(bootstrap, topic, name, balancer string, seen *deliveries) (func(), error) {
	group, err := sarama.NewConsumerGroup([]string{bootstrap}, topic, saramaGroupConfig(balancer))
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			err := group.Consume(context.Background(), []string{topic}, saramaHandler{name, seen})
			if errors.Is(err, sarama.ErrClosedConsumerGroup) {
				return
			}
			if err != nil {
				seen.failed(fmt.Errorf("%s: %w", name, err))
				return
			}
		}
	}()
	return func() {
		if err := group.Close(); err != nil {
			seen.failed(fmt.Errorf("%s leaves: %w", name, err))
		}
		<-ended
	}, nil
}

// saramaGroup reads a topic with two members, one of which leaves: every record, and all committed.
func saramaGroup(bootstrap, balancer string) error {
	const partitions, each = 6, 50
	topic, err := groupTopic(bootstrap, partitions, each)
	if err != nil {
		return err
	}
	seen := newDeliveries()
	leaveFirst, err := joinSarama(bootstrap, topic, "first", balancer, seen)
	if err != nil {
		return err
	}
	if err := seen.until(partitions*each, 1, partitions); err != nil {
		return fmt.Errorf("one member: %w", err)
	}
	leaveSecond, err := joinSarama(bootstrap, topic, "second", balancer, seen)
	if err != nil {
		return err
	}
	if err := seen.until(partitions*each, 2, partitions); err != nil {
		return fmt.Errorf("a second joined: %w", err)
	}
	leaveFirst()
	err = withFranz(bootstrap, func(ctx context.Context, client *kgo.Client, _ *kadm.Client) error {
		return moreRecords(ctx, client, topic, partitions, each)
	})
	if err != nil {
		return err
	}
	if err := seen.until(2*partitions*each, 1, partitions); err != nil {
		return fmt.Errorf("the first left: %w", err)
	}
	leaveSecond()
	if seen.err != nil {
		return seen.err
	}
	return committedEverywhere(bootstrap, topic, partitions, 2*each)
}
