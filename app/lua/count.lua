#!lua flags=allow-oom
-- count: one more. Not to be repeated: each run counts.
-- KEYS[1]  calls:<month>
-- ARGV     time to live s
-- returns  the number now
local number = redis.call('INCR', KEYS[1])
redis.call('EXPIRE', KEYS[1], ARGV[1])
return number
