-- shared: put in front of every script by app/redis.py. Times are milliseconds of the server's clock.

local STATE_REST_MS = 600000 -- an empty mailbox forgets its last token after this time

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- An item of a mailbox: v, id, queue, at (sent), since (accepted), raised, vanished, forwards, note, body, and
-- later (not before this time) if it was given back for a while.
local function head_of(list)
  local packed = redis.call('LINDEX', list, 0)
  return packed and cmsgpack.unpack(packed)
end

-- Whoever appends to an idle mailbox wakes it, so its grace begins now.
local function append(list, state, due, waiting, conversation, item, look_again_ms)
  redis.call('RPUSH', list, cmsgpack.pack(item))
  redis.call('INCR', waiting)
  if redis.call('ZADD', due, 'NX', look_again_ms, conversation) == 1 then
    redis.call('HSET', state, 'woken', now_ms())
    redis.call('PERSIST', state)
  end
end

-- A stop stays: it names its message, and whoever goes on with that message is to hear of it.
-- The mailbox stands still: due for its head, or at rest when it is empty. Returns the head's queue, or ''.
local function settle(list, state, due, conversation, look_again_ms, now)
  redis.call('HDEL', state, 'token', 'until', 'head', 'request')
  local head = head_of(list)
  if not head then
    redis.call('ZREM', due, conversation)
    return ''
  end
  redis.call('HSET', state, 'woken', now)
  redis.call('ZADD', due, look_again_ms, conversation)
  return head.queue
end

-- How a token that no longer holds was settled, for a caller whose answer was lost: the same answer for the same
-- step, LOST for another step (what was released was not committed) and for a token that somebody took over.
local function settled(state, token, step)
  local known = redis.call('HMGET', state, 'settled', 'answer')
  if known[1] == step .. ' ' .. token then return cmsgpack.unpack(known[2]) end
  return { 'LOST' }
end

local function remember(list, state, token, step, answer)
  redis.call('HSET', state, 'settled', step .. ' ' .. token, 'answer', cmsgpack.pack(answer))
  if redis.call('EXISTS', list) == 0 then redis.call('PEXPIRE', state, STATE_REST_MS) end
  return answer
end
