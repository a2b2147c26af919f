#!lua flags=allow-oom
-- untake: end a lease whose holder never heard of it: too few replicas have it, so its answer did not count.
-- KEYS[1]  <box>:{shard}:<conversation>
-- KEYS[2]  state:{shard}:<box>:<conversation>
-- KEYS[3]  due:{shard}:<box>
-- ARGV     conversation, request id of the lease, grace ms
-- returns  1, or 0 if somebody else has it
if redis.call('HGET', KEYS[2], 'request') ~= ARGV[2] then return 0 end
local now = now_ms()
settle(KEYS[1], KEYS[2], KEYS[3], ARGV[1], now + tonumber(ARGV[3]), now)
return 1
