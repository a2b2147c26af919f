#!lua
-- replay: put what a dead letter holds at the end of its mailbox again, and take the letter out, in one step.
-- KEYS[1]  <box>:{shard}:<conversation>
-- KEYS[2]  state:{shard}:<box>:<conversation>
-- KEYS[3]  due:{shard}:<box>
-- KEYS[4]  waiting:{shard}:<box>
-- KEYS[5]  dead:{shard}
-- KEYS[6]  seen:{shard}:<id>
-- ARGV     conversation, id, queue, body, the letter, its name, how long the id is remembered ms, limit of this
--          mailbox, version of what is written
-- returns  DONE, the same again when repeated; FULL; TAKEN: this id was given to something else; GONE: no such letter
local conversation, id, name = ARGV[1], ARGV[2], ARGV[6]
local taken_by = redis.call('GET', KEYS[6])
if taken_by then return taken_by == name and 'DONE' or 'TAKEN' end
if not redis.call('ZSCORE', KEYS[5], ARGV[5]) then return 'GONE' end
local waiting = redis.call('LLEN', KEYS[1]) - redis.call('HEXISTS', KEYS[2], 'token')
if waiting >= tonumber(ARGV[8]) then return 'FULL' end

local now = now_ms()
redis.call('SET', KEYS[6], name, 'PX', ARGV[7])
redis.call('ZREM', KEYS[5], ARGV[5])
redis.call('RPUSH', KEYS[1], cmsgpack.pack({ v = tonumber(ARGV[9]), id = id, queue = ARGV[3], at = now, since = now,
  raised = 0, vanished = 0, forwards = 0, note = '', body = ARGV[4] }))
redis.call('INCR', KEYS[4])
redis.call('PERSIST', KEYS[2])
-- Nobody is woken: it is due at once, if nothing else of this mailbox is, and the sweeper sees that.
if redis.call('ZADD', KEYS[3], 'NX', now, conversation) == 1 then redis.call('HSET', KEYS[2], 'woken', 0) end
return 'DONE'
