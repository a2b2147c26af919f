#!lua flags=allow-oom
-- sweeper: one process at a time sweeps; any other takes over when it stops renewing.
-- KEYS[1]  sweeper
-- ARGV     who asks, time to live ms
-- returns  1 if the caller sweeps, 0 if another does
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
