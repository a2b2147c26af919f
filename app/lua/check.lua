#!lua flags=allow-oom
-- check: whether a holder still has its lease, and for how long, right before it does what cannot be undone.
-- KEYS[1]  state:{shard}:<box>:<conversation>
-- KEYS[2]  due:{shard}:<box>
-- ARGV     conversation, token, lease ms
-- returns  ms that are left; 0 if the lease is lost
-- While more than half is left nothing is written: a write costs a sync of the disk. Below that it is a renewal.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return 0 end
local now, lease = now_ms(), tonumber(ARGV[3])
local left = tonumber(redis.call('HGET', KEYS[1], 'until')) - now
if 2 * left > lease then return left end
redis.call('HSET', KEYS[1], 'until', now + lease)
redis.call('ZADD', KEYS[2], now + lease, ARGV[1])
return lease
