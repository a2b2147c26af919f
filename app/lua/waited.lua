#!lua flags=allow-oom
-- waited: a write that means nothing, so that the WAIT behind it is about everything before it. WAIT looks at the last
-- write of its own connection, and a repeated call, which finds all done, writes nothing.
-- KEYS[1]  waited:{shard}   expires
-- returns  nothing
redis.call('SET', KEYS[1], '1', 'PX', STATE_REST_MS)
