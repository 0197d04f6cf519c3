-- Put before the scripts that need the time.
--
-- The partition's clock: Redis TIME in milliseconds, shifted so that it never goes back, and goes on at its pace when
-- the wall clock steps back (gateway/limits/window.py, Clock). It is written at most four times a second; what it can
-- lose by that, a quarter of a second, the windows' own `head` makes good.
--
-- Returns the partition's time, the wall clock's, and `born`: when this partition's clock was made. Another `born` than
-- before tells that Redis has come back empty.
local function partition_now(key)
  local time = redis.call('TIME')
  local wall = time[1] * 1000 + math.floor(time[2] / 1000)
  local clock = redis.call('HMGET', key, 'wall', 'offset', 'born')
  local seen, offset, born = tonumber(clock[1]) or 0, tonumber(clock[2]) or 0, tonumber(clock[3])
  if wall < seen then offset = offset + seen - wall end
  if not born or wall < seen or wall - seen >= 250 then
    born = born or time[1] * 1000000 + time[2]
    redis.call('HSET', key, 'wall', wall, 'offset', offset, 'born', born)
    redis.call('PEXPIRE', key, 604800000)
  end
  return wall + offset, wall, born
end
