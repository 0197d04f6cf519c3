-- Forget a reservation that nobody can read.
--
-- KEYS  1 held  2 lease
-- ARGV  1 request id
assert(#KEYS == 2 and #ARGV == 1, 'drop: KEYS and ARGV do not fit')
redis.call('HDEL', KEYS[1], ARGV[1])
return redis.call('ZREM', KEYS[2], ARGV[1])
