-- Put before the scripts that need the time.
--
-- The partition's clock: Redis TIME in milliseconds, shifted so that it never goes back, and goes on at its pace when
-- the wall clock steps back (gateway/limits/window.py, Clock). It is written at most four times a second; what it can
-- lose by that, a quarter of a second, the windows' own `head` makes good.
local function partition_now(key)
  local time = redis.call('TIME')
  local wall = time[1] * 1000 + math.floor(time[2] / 1000)
  local clock = redis.call('HMGET', key, 'wall', 'offset')
  local seen, offset = tonumber(clock[1]) or 0, tonumber(clock[2]) or 0
  if wall < seen then offset = offset + seen - wall end
  if wall < seen or wall - seen >= 250 then
    redis.call('HSET', key, 'wall', wall, 'offset', offset)
    redis.call('PEXPIRE', key, 604800000)
  end
  return wall + offset
end
