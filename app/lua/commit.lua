#!lua flags=allow-oom
-- commit: the one way in which a turn counts. Pops what it closes, saves the context, appends the reply.
-- KEYS[1]  <box>:{shard}:<conversation>
-- KEYS[2]  state:{shard}:<box>:<conversation>
-- KEYS[3]  due:{shard}:<box>
-- KEYS[4]  waiting:{shard}:<box>
-- KEYS[5]  outbox:{shard}:<conversation>
-- KEYS[6]  due:{shard}:outbox
-- KEYS[7]  waiting:{shard}:outbox
-- KEYS[8]  context:{shard}:<conversation>
-- KEYS[9]  draft:{shard}:<conversation>
-- KEYS[10] dead:{shard}                         sorted set, dead letters by time
-- KEYS[11] cards:{shard}                        hash, ids of messages whose card is open
-- KEYS[12] state:{shard}:outbox:<conversation>
-- ARGV     conversation, token, grace ms, reply id, reply body or '', what becomes of the context (keep, save,
--          forget), the context, its time to live ms, dead letter or '', keep dead letters ms, at most so many,
--          "close card" or '', version of what is written, id closed ...
-- returns  {DONE, next queue or '', 'send' or ''} or {LOST}; the same again when repeated
local conversation, token = ARGV[1], ARGV[2]
local FIRST_ID = 14

if redis.call('HGET', KEYS[2], 'token') ~= token then return settled(KEYS[2], token, 'commit') end
local now = now_ms()
local look_again = now + tonumber(ARGV[3])

local closed = {}
for place = FIRST_ID, #ARGV do closed[ARGV[place]] = true end
for place = redis.call('LLEN', KEYS[1]) - 1, 0, -1 do
  local packed = redis.call('LINDEX', KEYS[1], place)
  if closed[cmsgpack.unpack(packed).id] then
    redis.call('LREM', KEYS[1], 1, packed)
    redis.call('DECR', KEYS[4])
  end
end

local send = ''
if ARGV[5] ~= '' then
  append(KEYS[5], KEYS[12], KEYS[6], KEYS[7], conversation, { v = tonumber(ARGV[13]), id = ARGV[4], queue = 'send', at = now, since = now,
    raised = 0, vanished = 0, forwards = 0, note = '', body = ARGV[5] }, look_again)
  if KEYS[5] == KEYS[1] then redis.call('LMOVE', KEYS[5], KEYS[5], 'RIGHT', 'LEFT') end -- in the place of a reply
  send = 'send'
end
-- Another message's draft goes on: its version must never start anew, it is part of an idempotency key.
if closed[redis.call('HGET', KEYS[9], 'id')] then redis.call('DEL', KEYS[9]) end
if ARGV[6] == 'save' then
  redis.call('SET', KEYS[8], ARGV[7], 'PX', ARGV[8])
elseif ARGV[6] == 'forget' then
  redis.call('DEL', KEYS[8])
end
if ARGV[9] ~= '' then
  redis.call('ZADD', KEYS[10], now, ARGV[9])
  redis.call('ZREMRANGEBYSCORE', KEYS[10], '-inf', now - tonumber(ARGV[10]))
  redis.call('ZREMRANGEBYRANK', KEYS[10], 0, -tonumber(ARGV[11]) - 1)
end
if ARGV[12] == 'close card' then redis.call('HDEL', KEYS[11], ARGV[FIRST_ID]) end

local next_queue = settle(KEYS[1], KEYS[2], KEYS[3], conversation, look_again, now)
return remember(KEYS[1], KEYS[2], token, 'commit', { 'DONE', next_queue, send })
