#!lua flags=allow-oom
-- draft: the newest text of a running answer, if the writer still holds the turn.
-- KEYS[1]  state:{shard}:inbox:<conversation>
-- KEYS[2]  draft:{shard}:<conversation>
-- ARGV     token, message id, text, address, time to live ms
-- returns  the draft's version, rising from 1 for each message; 0 if the lease is lost
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
if redis.call('HGET', KEYS[2], 'id') ~= ARGV[2] then redis.call('DEL', KEYS[2]) end
redis.call('HSET', KEYS[2], 'id', ARGV[2], 'token', ARGV[1], 'text', ARGV[3], 'address', ARGV[4])
local version = redis.call('HINCRBY', KEYS[2], 'n', 1)
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return version
