-- Replace an entry of a partition's stream that nobody has confirmed yet: a stream's entries cannot be changed.
--
-- KEYS  1 events
-- ARGV  1 id of the entry  2 the event to put in its place (JSON)
-- Returns 1; 0 where the entry has gone, and nothing is put anywhere
assert(#KEYS == 1 and #ARGV == 2, 'replace: KEYS and ARGV do not fit')
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('XADD', KEYS[1], '*', 'e', ARGV[2])
return 1
