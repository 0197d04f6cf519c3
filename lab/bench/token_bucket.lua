-- The one script of the "redis floor": the least that any limited gateway must ask of Redis.
-- KEYS[1] bucket. ARGV: capacity (tokens), refill (tokens a second), cost (tokens). Returns {1 or 0, whole tokens left}.
local clock = redis.call('TIME')
local now_us = clock[1] * 1000000 + clock[2]
local capacity, refill, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local held = redis.call('HMGET', KEYS[1], 'level', 'at_us')
local level = tonumber(held[1]) or capacity
local since_us = math.max(0, now_us - (tonumber(held[2]) or now_us))
level = math.min(capacity, level + math.floor(since_us * refill / 1000000))

local admitted = 0
if level >= cost then
  admitted = 1
  level = level - cost
end
redis.call('HSET', KEYS[1], 'level', level, 'at_us', string.format('%.0f', now_us))
redis.call('PEXPIRE', KEYS[1], 60000)
return {admitted, level}
