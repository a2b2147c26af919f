#!lua
-- accept: put a message into its mailbox, once, by its time of sending. The only script that honours maxmemory.
-- KEYS[1]  <box>:{shard}:<conversation>         list of items
-- KEYS[2]  state:{shard}:<box>:<conversation>   hash: token, until, head, request, stop, settled, answer, full,
--                                               woken, swept
-- KEYS[3]  due:{shard}:<box>                    sorted set, conversation by the time to look again
-- KEYS[4]  seen:{shard}:<id>                    string, expires
-- KEYS[5]  waiting:{shard}:<box>                number of items in all mailboxes of the shard
-- KEYS[6]  outbox:{shard}:<conversation>        for the one notice when it is full
-- KEYS[7]  due:{shard}:outbox
-- KEYS[8]  waiting:{shard}:outbox
-- KEYS[9]  state:{shard}:inbox:<conversation>   which message is running (control only)
-- KEYS[10] state:{shard}:outbox:<conversation>
-- ARGV     conversation, id, sent ms, queue, body, dedupe ms, limit of this mailbox, room left in this shard,
--          grace ms, notice "this conversation is full", notice "the house is full", "control" or "",
--          version of what is written
-- returns  {WAKE | WAIT | REPEAT | FULL, queue to wake or ''}
local conversation, id, sent, queue, body = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local now = now_ms()
local grace = tonumber(ARGV[9])

if redis.call('EXISTS', KEYS[4]) == 1 then
  local head = head_of(KEYS[1])
  return { 'REPEAT', head and head.queue or (redis.call('LLEN', KEYS[6]) > 0 and 'send' or '') }
end
redis.call('SET', KEYS[4], '1', 'PX', ARGV[6])

local length = redis.call('LLEN', KEYS[1])
local leased = redis.call('HEXISTS', KEYS[2], 'token')
local waiting = length - leased
local conversation_full = waiting >= tonumber(ARGV[7])
if conversation_full or tonumber(redis.call('GET', KEYS[5]) or 0) >= tonumber(ARGV[8]) then
  if redis.call('HSETNX', KEYS[2], 'full', '1') == 0 then return { 'FULL', '' } end
  if length == 0 then redis.call('PEXPIRE', KEYS[2], STATE_REST_MS) end
  local notice = { v = tonumber(ARGV[13]), id = id, queue = 'send', at = sent, since = now, raised = 0, vanished = 0, forwards = 0,
    note = '', body = conversation_full and ARGV[10] or ARGV[11] }
  append(KEYS[6], KEYS[10], KEYS[7], KEYS[8], conversation, notice, now + grace)
  return { 'FULL', 'send' }
end
if waiting <= tonumber(ARGV[7]) / 2 then redis.call('HDEL', KEYS[2], 'full') end

local note = ''
if ARGV[12] == 'control' then
  -- A stop can stop the message that runs while it comes, and no other.
  local running = redis.call('HGET', KEYS[9], 'head')
  if running and tonumber(redis.call('HGET', KEYS[9], 'until')) > now then
    redis.call('HSET', KEYS[9], 'stop', running)
    note = running
  end
end
local packed = cmsgpack.pack({ v = tonumber(ARGV[13]), id = id, queue = queue, at = sent, since = now, raised = 0, vanished = 0,
  forwards = 0, note = note, body = body })

-- Behind everything that was sent before it, and never before a head that somebody holds.
local place, pivot = length, nil
while place > leased do
  local before = redis.call('LINDEX', KEYS[1], place - 1)
  if cmsgpack.unpack(before).at <= sent then break end
  place, pivot = place - 1, before
end
if pivot then
  redis.call('LINSERT', KEYS[1], 'BEFORE', pivot, packed)
else
  redis.call('RPUSH', KEYS[1], packed)
end
redis.call('INCR', KEYS[5])
redis.call('PERSIST', KEYS[2])

if leased == 1 or place > 0 then return { 'WAIT', '' } end
redis.call('HSET', KEYS[2], 'woken', now)
redis.call('ZADD', KEYS[3], now + grace, conversation)
return { 'WAKE', queue }
