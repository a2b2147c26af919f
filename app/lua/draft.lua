#!lua flags=allow-oom
-- draft: the newest text of a running answer, if the writer still holds the turn.
-- KEYS[1]  state:{shard}:inbox:<conversation>
-- KEYS[2]  draft:{shard}:<conversation>
-- ARGV     token, message id, text, address, time to live ms
-- returns  the draft's version, rising from 1 for each message with each new text; 0 if the lease is lost
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local known = redis.call('HMGET', KEYS[2], 'id', 'token', 'text', 'n')
if known[1] == ARGV[2] and known[2] == ARGV[1] and known[3] == ARGV[3] then return tonumber(known[4]) end
if known[1] ~= ARGV[2] then redis.call('DEL', KEYS[2]) end
redis.call('HSET', KEYS[2], 'id', ARGV[2], 'token', ARGV[1], 'text', ARGV[3], 'address', ARGV[4])
local version = redis.call('HINCRBY', KEYS[2], 'n', 1)
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return version
