#!lua
-- room: whether the record would take a message now. Like accept it has no allow-oom: a server whose memory or disk is
-- full refuses to run it. It reads and writes nothing.
-- KEYS[1]  any key of the server that is asked
-- ARGV     padding, as heavy as a message: it is in memory while the server decides
-- returns  1
return 1
