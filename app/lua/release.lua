#!lua flags=allow-oom
-- release: give the head back, now or for later, and say whether the attempt counts.
-- KEYS[1]  <box>:{shard}:<conversation>
-- KEYS[2]  state:{shard}:<box>:<conversation>
-- KEYS[3]  due:{shard}:<box>
-- KEYS[4]  draft:{shard}:<conversation>
-- KEYS[5]  cards:{shard}
-- ARGV     conversation, token, grace ms, delay ms, what counts ("raised", "vanished", "hung", ""),
--          id and version of the draft that was sent ('' and 0 if none), a suspect after so many holders vanished
-- returns  {DONE, queue to wake now or ''} or {LOST}; the same again when repeated
if redis.call('HGET', KEYS[2], 'token') ~= ARGV[2] then return settled(KEYS[2], ARGV[2], 'release') end
local now, delay = now_ms(), tonumber(ARGV[4])
local head = head_of(KEYS[1])
local on_head = head and redis.call('HGET', KEYS[2], 'head') == head.id
if on_head then
  if ARGV[5] == 'hung' then -- by itself: no neighbour is to blame
    head.vanished = math.max(head.vanished, tonumber(ARGV[8])) + 1
  elseif ARGV[5] ~= '' then
    head[ARGV[5]] = head[ARGV[5]] + 1
  end
  head.later = delay > 0 and now + delay or nil
  redis.call('LSET', KEYS[1], 0, cmsgpack.pack(head))
end
if ARGV[6] ~= '' then
  redis.call('HSET', KEYS[5], ARGV[6], now)
  if redis.call('HGET', KEYS[4], 'id') == ARGV[6] then redis.call('HSET', KEYS[4], 'sent', ARGV[7]) end
end
local look_again = delay > 0 and on_head and now + delay or now + tonumber(ARGV[3])
local queue = settle(KEYS[1], KEYS[2], KEYS[3], ARGV[1], look_again, now)
return remember(KEYS[1], KEYS[2], ARGV[2], 'release', { 'DONE', delay > 0 and on_head and '' or queue })
