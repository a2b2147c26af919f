#!lua flags=allow-oom
-- mark: write down how far the holder is with the head, so that whoever comes next goes on from there.
-- KEYS[1]  <box>:{shard}:<conversation>
-- KEYS[2]  state:{shard}:<box>:<conversation>
-- KEYS[3]  cards:{shard}
-- ARGV     token, note, id of the message whose card is open now or is not after all (''), "open" or "gone"
-- returns  1, or 0 if the lease is lost
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[1] then return 0 end
local head = head_of(KEYS[1])
if head and head.id == redis.call('HGET', KEYS[2], 'head') then
  head.note = ARGV[2]
  redis.call('LSET', KEYS[1], 0, cmsgpack.pack(head))
end
if ARGV[4] == 'open' then redis.call('HSET', KEYS[3], ARGV[3], now_ms()) end
if ARGV[4] == 'gone' then redis.call('HDEL', KEYS[3], ARGV[3]) end
return 1
