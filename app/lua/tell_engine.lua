#!lua flags=allow-oom
-- tell_engine: what an engine says of itself, for a few seconds; whoever has been silent for so long is forgotten.
-- KEYS[1]  engines  hash, worker -> until ms, a blank, figures
-- ARGV     worker, figures, time to live ms
-- returns  1
local now = now_ms()
local told = redis.call('HGETALL', KEYS[1])
for place = 1, #told, 2 do
  if tonumber(told[place + 1]:match('^%d+')) <= now then redis.call('HDEL', KEYS[1], told[place]) end
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %s', now + ARGV[3], ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
