// A member of a group with kafkajs: says what it is given and what comes; commits after each batch.
'use strict'

const { Kafka, logLevel } = require('../../clients/kafkajs/node_modules/kafkajs')

const [bootstrap, topic, groupId, , name, sessionTimeout] = process.argv.slice(2)

const say = (event, fields) =>
  process.stdout.write(
    `${JSON.stringify({ name: event, time_ns: Math.round((performance.timeOrigin + performance.now()) * 1e6), ...fields })}\n`,
  )

async function main() {
  const kafka = new Kafka({ clientId: name, brokers: [bootstrap], logLevel: logLevel.NOTHING, retry: { retries: 100, maxRetryTime: 1000 } })
  const consumer = kafka.consumer({ groupId, sessionTimeout: Number(sessionTimeout), heartbeatInterval: 400, rebalanceTimeout: 20_000 })
  let owned = []
  const revoke = () => {
    if (owned.length > 0) say('revoked', { partitions: owned })
    owned = []
  }
  consumer.on(consumer.events.REBALANCING, revoke)
  consumer.on(consumer.events.CRASH, revoke)
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    revoke()
    owned = payload.memberAssignment[topic] ?? []
    say('assigned', { partitions: owned })
  })
  await consumer.connect()
  await consumer.subscribe({ topics: [topic], fromBeginning: true })
  await consumer.run({
    eachBatchAutoResolve: true,
    autoCommitThreshold: 1,
    eachBatch: async ({ batch }) => {
      if (batch.messages.length === 0) return
      const offsets = batch.messages.map((message) => Number(message.offset))
      say('consumed', { ranges: offsets.map((offset) => [batch.partition, offset, offset]) })
    },
  })
  process.on('SIGTERM', async () => {
    // It has no event for what it gives up when it leaves, and others may have it before it is disconnected.
    revoke()
    await consumer.disconnect()
    say('left', {})
    process.exit(0)
  })
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
