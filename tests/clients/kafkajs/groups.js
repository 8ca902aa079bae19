// kafkajs's public consumer: groups, commits, two members.
'use strict'

const assert = require('node:assert')

const TIMEOUT_MS = 40_000

async function until(what, holds) {
  const deadline = Date.now() + TIMEOUT_MS
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, `${what}: not within ${TIMEOUT_MS} ms`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

function groupCases(kafka, { createTopic, produce, withAdmin }) {
  const numbered = (count, partitions) =>
    Array.from({ length: count }, (_, index) => ({ partition: index % partitions, value: String(index) }))

  async function member(groupId, topic, seen) {
    const consumer = kafka.consumer({ groupId, sessionTimeout: 10_000, heartbeatInterval: 500 })
    await consumer.connect()
    await consumer.subscribe({ topics: [topic], fromBeginning: true })
    await consumer.run({
      eachMessage: async ({ partition, message }) => {
        const place = `${partition}/${message.offset}`
        seen.set(place, (seen.get(place) ?? 0) + 1)
      },
    })
    return consumer
  }

  async function readsAndCommits() {
    const topic = await createTopic('group', 4)
    await produce(topic, numbered(400, 4))
    const seen = new Map()
    const consumer = await member(topic, topic, seen)
    await until('400 messages', () => seen.size === 400)
    await consumer.disconnect()
    assert.ok([...seen.values()].every((times) => times === 1))
    await withAdmin(async (admin) => {
      const [{ partitions }] = await admin.fetchOffsets({ groupId: topic, topics: [topic] })
      assert.deepStrictEqual(partitions.map((p) => p.offset), ['100', '100', '100', '100'])
      await admin.deleteGroups([topic])
      const { groups } = await admin.listGroups()
      assert.ok(!groups.some((group) => group.groupId === topic))
    })
  }

  async function twoMembersShare() {
    const topic = await createTopic('shared', 4)
    const seen = new Map()
    const members = [await member(topic, topic, seen), await member(topic, topic, seen)]
    await until('two members', () =>
      withAdmin(async (admin) => {
        const { groups } = await admin.describeGroups([topic])
        return groups[0].state === 'Stable' && groups[0].members.length === 2
      }),
    )
    await produce(topic, numbered(400, 4))
    await until('400 messages', () => seen.size === 400)
    await members[0].disconnect()
    await produce(topic, numbered(400, 4))
    await until('800 messages', () => seen.size === 800)
    await members[1].disconnect()
  }

  return { reads_and_commits: readsAndCommits, two_members_share: twoMembersShare }
}

module.exports = { groupCases }
