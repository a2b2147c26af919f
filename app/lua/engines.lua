#!lua flags=allow-oom,no-writes
-- engines: what the engines said of themselves of late.
-- KEYS[1]  engines
-- returns  {worker, figures, worker, figures, ...}
local now = now_ms()
local told = redis.call('HGETALL', KEYS[1])
local fresh = {}
for place = 1, #told, 2 do
  local until_ms, figures = told[place + 1]:match('^(%d+) (.*)$')
  if tonumber(until_ms) > now then
    fresh[#fresh + 1] = told[place]
    fresh[#fresh + 1] = figures
  end
end
return fresh
