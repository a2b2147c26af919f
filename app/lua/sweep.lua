#!lua flags=allow-oom
-- sweep: of conversations that are due, those that really did not move; each is due again after its grace.
-- KEYS[1]  due:{shard}:<box>
-- KEYS[2i]    <box>:{shard}:<conversation i>
-- KEYS[2i+1]  state:{shard}:<box>:<conversation i>
-- ARGV     grace ms if the queue is empty, grace ms if it is not, look again after ms (it may be empty by then),
--          queues that are not empty joined by ' ', request id, conversation i ...
-- returns  {queue, conversation, queue, conversation, ...} to wake; the same again for the same request
local now = now_ms()
local idle, busy, again, request, FIRST = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[5], 6
local filled = {}
for queue in string.gmatch(ARGV[4], '%S+') do filled[queue] = true end

local wake = {}
for i = 1, #ARGV - FIRST + 1 do
  local conversation, list, state = ARGV[FIRST + i - 1], KEYS[2 * i], KEYS[2 * i + 1]
  local held_until, woken, swept = unpack(redis.call('HMGET', state, 'until', 'woken', 'swept'))
  woken = swept ~= request and tonumber(woken or 0) or 0
  local head = head_of(list)
  if held_until and tonumber(held_until) > now then
    redis.call('ZADD', KEYS[1], held_until, conversation)
  elseif not head then
    redis.call('ZREM', KEYS[1], conversation)
    redis.call('PEXPIRE', state, STATE_REST_MS)
  elseif filled[head.queue] and now < woken + busy and not (held_until and woken <= tonumber(held_until)) then
    redis.call('ZADD', KEYS[1], math.min(woken + busy, now + again), conversation)
  else -- nobody came, or its holder vanished and it was not woken since
    redis.call('HSET', state, 'woken', now, 'swept', request)
    redis.call('ZADD', KEYS[1], now + idle, conversation)
    wake[#wake + 1] = head.queue
    wake[#wake + 1] = conversation
  end
end
return wake
