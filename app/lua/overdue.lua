#!lua flags=allow-oom,no-writes
-- overdue: the conversations of one shard that are due, oldest first.
-- KEYS[1]  due:{shard}:<box>
-- ARGV     at most so many
-- returns  {conversation, due ms, conversation, due ms, ...}
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now_ms(), 'WITHSCORES', 'LIMIT', 0, ARGV[1])
