-- Reservations whose lease has ended: their gateway is dead, or cut off.
--
-- KEYS  1 clock  2 held  3 lease
-- ARGV  1 the most to return
-- Returns request id, reservation, request id, reservation ...
assert(#KEYS == 3 and #ARGV == 1, 'expired: KEYS and ARGV do not fit')
local found = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', partition_now(KEYS[1]), 'LIMIT', 0, ARGV[1])) do
  local held = redis.call('HGET', KEYS[2], id)
  if held then
    found[#found + 1] = id
    found[#found + 1] = held
  else
    redis.call('ZREM', KEYS[3], id)
  end
end
return found
