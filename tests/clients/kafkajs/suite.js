// kafkajs: produce with every codec, read back with kafkajs's own fetch decoder, admin calls.
//
// kafkajs consumes in groups only, so the reading here goes through its cluster object, one layer
// below its public consumer; `node suite.js HOST:PORT groups` runs the public one.
'use strict'

const assert = require('node:assert')
const { randomUUID } = require('node:crypto')
const { Kafka, CompressionTypes, CompressionCodecs, KafkaJSProtocolError, logLevel } = require('kafkajs')
const SnappyCodec = require('kafkajs-snappy')
const { ZstdCodec } = require('zstd-codec')
const { groupCases } = require('./groups')

const TIMEOUT_MS = 30_000
const [bootstrap, only = ''] = process.argv.slice(2)
const baseTimestampMs = Date.now() - 3_600_000

CompressionCodecs[CompressionTypes.Snappy] = SnappyCodec
const zstd = new Promise((resolve) => ZstdCodec.run((codec) => resolve(new codec.Simple())))
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async (encoder) => Buffer.from((await zstd).compress(encoder.buffer)),
  decompress: async (buffer) => Buffer.from((await zstd).decompress(buffer)),
})

const kafka = new Kafka({
  clientId: 'kafkajs-suite',
  brokers: [bootstrap],
  logLevel: logLevel.NOTHING,
  retry: { retries: 8, initialRetryTime: 50, maxRetryTime: 1000 },
})

const topicName = (purpose) => `kafkajs-${purpose}-${randomUUID().slice(0, 8)}`

async function withAdmin(run) {
  const admin = kafka.admin()
  await admin.connect()
  try {
    return await run(admin)
  } finally {
    await admin.disconnect()
  }
}

async function createTopic(purpose, numPartitions = 1, configEntries = []) {
  const topic = topicName(purpose)
  await withAdmin((admin) =>
    admin.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions, replicationFactor: 1, configEntries }] }),
  )
  return topic
}

// Nulls, empties, bytes that are not UTF-8, doubled header keys.
function varied(count) {
  const keys = [null, Buffer.alloc(0), Buffer.from('key'), Buffer.from([0xff, 0xfe, 0])]
  const headers = [
    {},
    { twice: [Buffer.from('1'), Buffer.from('2'), Buffer.from('1')], empty: Buffer.alloc(0) },
    { binary: Buffer.from([0xff, 0x80, 0]), ünicode: Buffer.from('x') },
  ]
  return Array.from({ length: count }, (_, index) => {
    const values = [Buffer.from(`value ${index}`), null, Buffer.alloc(0), Buffer.alloc(900, 'abc')]
    return {
      partition: 0,
      key: keys[index % keys.length],
      value: values[Math.floor(index / 4) % values.length],
      headers: headers[index % headers.length],
      timestamp: String(baseTimestampMs + index),
    }
  })
}

// `count` messages by assignment, without a group.
async function read(topic, partition, from, count) {
  const create = Object.getOwnPropertySymbols(kafka).find((s) => s.description === 'private:Kafka:createCluster')
  const cluster = kafka[create]({ metadataMaxAge: TIMEOUT_MS, allowAutoTopicCreation: false })
  await cluster.connect()
  try {
    await cluster.addTargetTopic(topic)
    const [nodeId] = Object.keys(cluster.findLeaderForPartitions(topic, [partition]))
    const broker = await cluster.findBroker({ nodeId })
    const messages = []
    const deadline = Date.now() + TIMEOUT_MS
    while (messages.length < count && Date.now() < deadline) {
      const fetchOffset = String(from + messages.length)
      const answer = await broker.fetch({
        topics: [{ topic, partitions: [{ partition, fetchOffset, maxBytes: 1 << 20 }] }],
        maxWaitTime: 1000,
      })
      const fetched = answer.responses[0].partitions[0].messages
      messages.push(...fetched.filter((message) => BigInt(message.offset) >= BigInt(fetchOffset)))
    }
    return messages.slice(0, count)
  } finally {
    await cluster.disconnect()
  }
}

async function produce(topic, messages, compression, settings = {}) {
  const producer = kafka.producer({ createPartitioner: () => ({ message }) => message.partition, ...settings })
  await producer.connect()
  try {
    return await producer.send({ topic, messages, compression, acks: -1 })
  } finally {
    await producer.disconnect()
  }
}

async function carriesEverything(compression, settings) {
  const topic = await createTopic('codec')
  const wanted = varied(600)
  for (let first = 0; first < wanted.length; first += 200) {
    const [answer] = await produce(topic, wanted.slice(first, first + 200), compression, settings)
    assert.strictEqual(answer.errorCode, 0)
    assert.strictEqual(answer.baseOffset, String(first))
  }
  const got = await read(topic, 0, 0, wanted.length)
  assert.strictEqual(got.length, wanted.length)
  got.forEach((message, index) => {
    const { key, value, headers, timestamp } = wanted[index]
    assert.strictEqual(message.offset, String(index))
    assert.deepStrictEqual({ key: message.key, value: message.value, timestamp: message.timestamp }, { key, value, timestamp })
    assert.deepStrictEqual({ ...message.headers }, headers)
  })
}

async function refused(type, attempt) {
  await assert.rejects(attempt, (error) => {
    const causes = [error, error.originalError, error.cause, ...(error.errors ?? [])]
    const found = causes.find((cause) => cause instanceof KafkaJSProtocolError)
    assert.strictEqual(found?.type, type, error)
    return true
  })
}

async function largeMessages() {
  const topic = await createTopic('large')
  const message = { partition: 0, key: null, value: Buffer.alloc(1_048_000, 'x'), timestamp: String(baseTimestampMs) }
  await produce(topic, [message])
  const [got] = await read(topic, 0, 0, 1)
  assert.ok(got.value.equals(message.value))
  await refused('MESSAGE_TOO_LARGE', () => produce(topic, [{ ...message, value: Buffer.alloc(1_048_600) }]))
}

async function manyPartitions() {
  const topic = await createTopic('many', 20)
  const messages = Array.from({ length: 2000 }, (_, i) => ({ partition: i % 20, value: String(i), timestamp: '1' }))
  await produce(topic, messages)
  for (let partition = 0; partition < 20; partition += 1) {
    const got = await read(topic, partition, 0, 100)
    assert.deepStrictEqual(got.map((m) => Number(m.value)), Array.from({ length: 100 }, (_, i) => i * 20 + partition))
  }
}

async function offsets() {
  const topic = await createTopic('offsets')
  const messages = Array.from({ length: 10 }, (_, i) => ({
    partition: 0, value: String(i), timestamp: String(baseTimestampMs + i * 1000),
  }))
  await produce(topic, messages)
  await withAdmin(async (admin) => {
    // The first call makes the client load the topic's metadata, which the second one presumes.
    assert.strictEqual((await admin.fetchTopicOffsets(topic))[0].high, '10')
    await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '4' }] })
    const [ends] = await admin.fetchTopicOffsets(topic)
    assert.deepStrictEqual({ low: ends.low, high: ends.high }, { low: '4', high: '10' })
    const [byTime] = await admin.fetchTopicOffsetsByTimestamp(topic, baseTimestampMs + 6500)
    assert.strictEqual(byTime.offset, '7')
  })
}

async function adminCalls() {
  const topic = await createTopic('admin', 2, [{ name: 'retention.ms', value: '7200000' }])
  await withAdmin(async (admin) => {
    assert.strictEqual((await admin.describeCluster()).brokers.length, 1)
    await admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] })
    const { topics } = await admin.fetchTopicMetadata({ topics: [topic] })
    assert.strictEqual(topics[0].partitions.length, 4)
    const { resources } = await admin.describeConfigs({
      includeSynonyms: false,
      resources: [{ type: 2, name: topic, configNames: ['retention.ms'] }],
    })
    assert.strictEqual(resources[0].configEntries[0].configValue, '7200000')
    await refused('INVALID_TOPIC_EXCEPTION', () => admin.createTopics({ topics: [{ topic: 'a b' }] }))
    await refused('INVALID_REPLICATION_FACTOR', () =>
      admin.createTopics({ topics: [{ topic: topicName('rf'), replicationFactor: 3 }] }),
    )
    assert.strictEqual(await admin.createTopics({ topics: [{ topic }] }), false)
    await admin.deleteTopics({ topics: [topic] })
    assert.ok(!(await admin.listTopics()).includes(topic))
    await refused('UNKNOWN_TOPIC_OR_PARTITION', () => admin.deleteTopics({ topics: [topicName('none')] }))
  })
}

async function autoCreation() {
  const topic = topicName('auto')
  await produce(topic, [{ partition: 2, value: 'x' }], CompressionTypes.None, { allowAutoTopicCreation: true })
  const [got] = await read(topic, 2, 0, 1)
  assert.strictEqual(got.value.toString(), 'x')
}

const cases = {
  ...Object.fromEntries(
    // No maintained pure JavaScript package writes LZ4 frames that Kafka itself accepts.
    Object.entries(CompressionTypes).filter(([name]) => name !== 'LZ4').map(([name, type]) => [`carries_everything_${name}`, () => carriesEverything(type)]),
  ),
  idempotent: () => carriesEverything(CompressionTypes.GZIP, { idempotent: true, maxInFlightRequests: 1 }),
  large_messages: largeMessages,
  many_partitions: manyPartitions,
  offsets,
  admin: adminCalls,
  auto_creation: autoCreation,
}

async function main() {
  const chosen = only === 'groups' ? groupCases(kafka, { createTopic, produce, withAdmin }) : cases
  let failed = false
  for (const [name, run] of Object.entries(chosen)) {
    if (only !== 'groups' && !name.includes(only)) continue
    const started = Date.now()
    try {
      await run()
      console.log(`ok ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)`)
    } catch (error) {
      failed = true
      console.log(`not ok ${name}: ${String(error.message).split(/\s+/).join(' ')}`)
      console.error(error)
    }
  }
  process.exit(failed ? 1 : 0)
}

main()
