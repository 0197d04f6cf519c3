-- A gateway is alive.
--
-- KEYS  1 gateways
-- ARGV  1 its name  2 lease in ms; 0: it says good-bye
-- Returns 1 how many are alive  2 how many of their names come before this one
assert(#KEYS == 1 and #ARGV == 2, 'beat: KEYS and ARGV do not fit')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if ARGV[2] == '0' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
local alive, before = redis.call('ZRANGE', KEYS[1], 0, -1), 0
for _, name in ipairs(alive) do
  if name < ARGV[1] then before = before + 1 end
end
return {#alive, before}
