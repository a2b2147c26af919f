#!lua flags=allow-oom,no-writes
-- ages: for how long the heads of some mailboxes have waited since they were accepted, and whether somebody has them.
-- KEYS[2i-1]  <box>:{shard}:<conversation i>
-- KEYS[2i]    state:{shard}:<box>:<conversation i>
-- returns  {age ms, leased, age ms, leased, ...}: age -1 if the mailbox is empty, leased 1 or 0; a lease that has
--          expired is none: its holder vanished
local now = now_ms()
local ages = {}
for place = 1, #KEYS, 2 do
  local head = head_of(KEYS[place])
  local held_until = tonumber(redis.call('HGET', KEYS[place + 1], 'until') or 0)
  ages[place] = head and math.max(0, now - head.since) or -1
  ages[place + 1] = held_until > now and 1 or 0
end
return ages
