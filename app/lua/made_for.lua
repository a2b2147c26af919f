#!lua flags=allow-oom
-- made_for: which version made this record, for how many shards; written by the first process that asks.
-- KEYS[1]  switchyard:{shard}
-- ARGV     number of shards, version
-- returns  the number of shards that it was made for
redis.call('HSETNX', KEYS[1], 'shards', ARGV[1])
redis.call('HSETNX', KEYS[1], 'version', ARGV[2])
return tonumber(redis.call('HGET', KEYS[1], 'shards'))
