-- Report the progress of long requests and renew their leases.
--
-- KEYS  1 clock  2 held  3 lease
-- ARGV  1 lease in ms, then for each request: id, prompt tokens, completion tokens so far
-- Returns how many of them are still held
assert(#KEYS == 3 and #ARGV % 3 == 1, 'renew: KEYS and ARGV do not fit')
local now, alive = partition_now(KEYS[1]), 0
for i = 2, #ARGV, 3 do
  local held = redis.call('HGET', KEYS[2], ARGV[i])
  if held then
    local reserved, note = string.match(held, '^([^|]*)|%d+|%d+|(.*)$')
    redis.call('HSET', KEYS[2], ARGV[i], reserved .. '|' .. ARGV[i + 1] .. '|' .. ARGV[i + 2] .. '|' .. note)
    redis.call('ZADD', KEYS[3], now + ARGV[1], ARGV[i])
    alive = alive + 1
  end
end
return alive
