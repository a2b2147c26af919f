#!lua flags=allow-oom
-- forward: replace the head in place, same id, new content, new queue, and end the lease.
-- KEYS[1]  <box>:{shard}:<conversation>
-- KEYS[2]  state:{shard}:<box>:<conversation>
-- KEYS[3]  due:{shard}:<box>
-- ARGV     conversation, token, grace ms, queue, body, at most so many forwards
-- returns  {DONE, queue}, {TOO_MANY} (the lease is still held) or {LOST}; the same again when repeated
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[2] then return settled(KEYS[2], ARGV[2], 'forward') end
local head = head_of(KEYS[1])
if head.forwards >= tonumber(ARGV[6]) then return { 'TOO_MANY' } end
head.queue, head.body = ARGV[4], ARGV[5]
head.raised, head.vanished, head.forwards = 0, 0, head.forwards + 1
redis.call('LSET', KEYS[1], 0, cmsgpack.pack(head))
local now = now_ms()
local queue = settle(KEYS[1], KEYS[2], KEYS[3], ARGV[1], now + tonumber(ARGV[3]), now)
return remember(KEYS[1], KEYS[2], ARGV[2], 'forward', { 'DONE', queue })
