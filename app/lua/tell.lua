#!lua flags=allow-oom
-- tell: somebody lives and says so, also while the record is full.
-- KEYS[1]  what is told
-- ARGV     value, time to live ms
-- returns  1
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
