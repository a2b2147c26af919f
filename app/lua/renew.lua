#!lua flags=allow-oom
-- renew: lengthen a lease that its holder still has, also after expiry when nobody else took it.
-- KEYS[1]  state:{shard}:<box>:<conversation>
-- KEYS[2]  due:{shard}:<box>
-- ARGV     conversation, token, lease ms
-- returns  {until ms, 1 if it shall stop}; {0, 0} if the lease is lost
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[2] then return { 0, 0 } end
local held_until = now_ms() + tonumber(ARGV[3])
redis.call('HSET', KEYS[1], 'until', held_until)
redis.call('ZADD', KEYS[2], held_until, ARGV[1])
return { held_until, redis.call('HGET', KEYS[1], 'stop') == redis.call('HGET', KEYS[1], 'head') and 1 or 0 }
