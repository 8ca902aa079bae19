// Two Go clients, franz-go and sarama, against one broker: what one writes, both must read back unchanged.
package main

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strings"
	"time"
)

const timeout = 30 * time.Second

// Header is one record header; a nil Value is Kafka's null.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record as the tests see it, whatever a client calls its parts.
type Record struct {
	Offset    int64
	Key       []byte
	Value     []byte
	Headers   []Header
	Timestamp int64
}

var baseTimestampMs = time.Now().Add(-time.Hour).UnixMilli()

// varied makes records with nulls, empties, noise, doubled header keys and bytes that are not UTF-8.
func varied(count int) []Record {
	noise := rand.New(rand.NewSource(int64(count)))
	keys := [][]byte{nil, {}, []byte("key"), {0xff, 0xfe, 0x00}}
	headers := [][]Header{
		nil,
		{{"twice", []byte("1")}, {"twice", []byte("2")}, {"empty", []byte{}}, {"twice", []byte("1")}},
		{{"binary", []byte{0xff, 0x80, 0x00}}, {"ünicode", []byte("x")}},
	}
	records := make([]Record, count)
	for i := range records {
		random := make([]byte, 1+noise.Intn(500))
		noise.Read(random)
		values := [][]byte{[]byte(fmt.Sprint("value ", i)), nil, {}, bytes.Repeat([]byte("abc"), 300), random}
		records[i] = Record{
			Offset:    int64(i),
			Key:       keys[i%len(keys)],
			Value:     values[noise.Intn(len(values))],
			Headers:   headers[i/len(keys)%len(headers)],
			Timestamp: baseTimestampMs + int64(i),
		}
	}
	return records
}

func sameBytes(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func sameHeader(a, b Header) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) }

// compare fails at the first field that differs.
func compare(got, want []Record) error {
	if len(got) != len(want) {
		return fmt.Errorf("got %d records, want %d", len(got), len(want))
	}
	for i := range want {
		g, w := got[i], want[i]
		if g.Offset != w.Offset || !sameBytes(g.Key, w.Key) || !sameBytes(g.Value, w.Value) ||
			g.Timestamp != w.Timestamp || !slices.EqualFunc(g.Headers, w.Headers, sameHeader) {
			return fmt.Errorf("record %d: got %+v, want %+v", i, g, w)
		}
	}
	return nil
}

func topicName(purpose string) string {
	return fmt.Sprintf("go-%s-%x", purpose, time.Now().UnixNano())
}

type namedCase struct {
	name string
	run  func(bootstrap string) error
}

func main() {
	if len(os.Args) < 2 {
		fmt.Println("usage: suite HOST:PORT [PART-OF-A-CASE-NAME]")
		os.Exit(2)
	}
	if os.Args[1] == "member" && len(os.Args) == 10 {
		if err := runMember(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	only := strings.Join(os.Args[2:], " ")
	cases := append(franzCases(), saramaCases()...)
	if slices.Contains(os.Args[2:], "groups") {
		cases, only = groupCases(), ""
	}
	failed := false
	for _, c := range cases {
		if !strings.Contains(c.name, only) {
			continue
		}
		started := time.Now()
		if err := c.run(os.Args[1]); err != nil {
			failed = true
			fmt.Printf("not ok %s: %v\n", c.name, err)
			continue
		}
		fmt.Printf("ok %s (%.1f s)\n", c.name, time.Since(started).Seconds())
	}
	if failed {
		os.Exit(1)
	}
}
