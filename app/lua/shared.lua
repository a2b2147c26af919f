-- shared: put in front of every script by app/redis.py. Times are milliseconds of the server's clock.

local STATE_REST_MS = 600000 -- an empty mailbox forgets its last token after this time

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- An item of a mailbox: v, id, queue, at (sent), since (accepted), raised, vanished, forwards, note, body.
local function head_of(list)
  local packed = redis.call('LINDEX', list, 0)
  return packed and cmsgpack.unpack(packed)
end

local function append(list, due, waiting, conversation, item, look_again_ms)
  redis.call('RPUSH', list, cmsgpack.pack(item))
  redis.call('INCR', waiting)
  redis.call('ZADD', due, 'NX', look_again_ms, conversation)
end

-- The mailbox stands still: due for its head, or at rest when it is empty. Returns the head's queue, or ''.
local function settle(list, state, due, conversation, look_again_ms, now)
  redis.call('HDEL', state, 'token', 'until', 'head', 'request', 'stop')
  local head = head_of(list)
  if not head then
    redis.call('ZREM', due, conversation)
    redis.call('PEXPIRE', state, STATE_REST_MS)
    return ''
  end
  redis.call('HSET', state, 'woken', now)
  redis.call('ZADD', due, look_again_ms, conversation)
  return head.queue
end
