#!lua flags=allow-oom
-- lease: hand the head of a mailbox to one holder, with a fresh fencing token and a time to live.
-- KEYS[1]  <box>:{shard}:<conversation>
-- KEYS[2]  state:{shard}:<box>:<conversation>
-- KEYS[3]  due:{shard}:<box>
-- KEYS[4]  token:{shard}                        the last token that was given out in this shard
-- KEYS[5]  draft:{shard}:<conversation>         hash: id, token, n, sent, text, address
-- ARGV     conversation, queue, request id, lease ms, newest version that the caller reads, stale ms,
--          "draft" if an empty mailbox may be leased for its draft, a suspect after so many holders vanished, given up
--          after so many, rest of a suspect ms
-- returns  {LEASED, token, id, body, age ms, raised, vanished, forwards, note, stale id ...}
--          {DRAFT, token, id, token of the turn, n, text, address}
--          {BUSY} {EMPTY} {NEWER} {ELSEWHERE, queue}
local conversation, queue, request = ARGV[1], ARGV[2], ARGV[3]
local now = now_ms()
local token, held_until, head_id, held_by = unpack(redis.call('HMGET', KEYS[2], 'token', 'until', 'head', 'request'))
local head = head_of(KEYS[1])

local function leased(with_token)
  local answer = { 'LEASED', with_token, head.id, head.body, now - head.since, head.raised, head.vanished,
    head.forwards, head.note }
  for place = 0, redis.call('LLEN', KEYS[1]) - 1 do
    local item = cmsgpack.unpack(redis.call('LINDEX', KEYS[1], place))
    if now - item.since <= tonumber(ARGV[6]) then break end
    answer[#answer + 1] = item.id
  end
  return answer
end

local function drafted(with_token)
  local draft = redis.call('HMGET', KEYS[5], 'id', 'token', 'n', 'text', 'address')
  return { 'DRAFT', with_token, draft[1], draft[2], draft[3], draft[4], draft[5] }
end

if token then
  if tonumber(held_until) > now then
    if held_by ~= request then return { 'BUSY' } end
    if head and head.id == head_id then return leased(token) end
    if redis.call('EXISTS', KEYS[5]) == 1 then return drafted(token) end
    -- the final reply came between the call and its repeat: the draft is gone, and that is what is to be leased
  elseif head and head.id == head_id and held_by ~= request then -- its holder vanished
    head.vanished = head.vanished + 1
    -- It ran as a suspect: it rests, longer each time, so that others go first and a row of kills hits not only it.
    local as_suspect = head.vanished - tonumber(ARGV[8])
    if as_suspect > 0 and head.vanished < tonumber(ARGV[9]) then
      head.later = now + as_suspect * tonumber(ARGV[10])
      redis.call('HSET', KEYS[2], 'woken', 0)
    end
    redis.call('LSET', KEYS[1], 0, cmsgpack.pack(head))
  end
  redis.call('HDEL', KEYS[2], 'token', 'until', 'head', 'request')
end

local draft = false
if not head then
  local versions = redis.call('HMGET', KEYS[5], 'n', 'sent')
  draft = ARGV[7] == 'draft' and versions[1] and tonumber(versions[1]) > tonumber(versions[2] or 0)
  if not draft then
    redis.call('ZREM', KEYS[3], conversation)
    redis.call('PEXPIRE', KEYS[2], STATE_REST_MS)
    return { 'EMPTY' }
  end
elseif head.v > tonumber(ARGV[5]) then
  redis.call('ZADD', KEYS[3], now + 30000, conversation)
  return { 'NEWER' }
elseif head.queue ~= queue then
  return { 'ELSEWHERE', head.queue }
elseif head.later and head.later > now then
  redis.call('ZADD', KEYS[3], head.later, conversation)
  return { 'BUSY' }
end

local clock = redis.call('TIME') -- seeded from it: a lost record never repeats a token
redis.call('SET', KEYS[4], clock[1] * 1000000 + clock[2], 'NX')
token = redis.call('INCR', KEYS[4])
redis.call('HSET', KEYS[2], 'token', token, 'until', now + tonumber(ARGV[4]), 'request', request,
  'head', draft and 'draft' or head.id)
redis.call('PERSIST', KEYS[2])
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[4]), conversation)
return draft and drafted(token) or leased(token)
