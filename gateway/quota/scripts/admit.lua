-- Admit a request: all limits that bind are checked, and all of them or none are taken, in one round trip.
--
-- KEYS  1 clock  2 held  3 lease  4 epoch  5... one window (hash) for each limit
-- ARGV  1 request id  2 lease in ms  3 note kept with the reservation, opaque here
--       then for each limit: cap, window ms, bucket ms, cost (integers; cost <= cap)
-- Returns integers: 1 milliseconds until it may be tried again, 0 when it is admitted
--                   2 number of the limit that refused it for longest, 0 when it is admitted
--                   3 the organisation's epoch
--                   then for each limit: units left, milliseconds until the limit is whole again
--
-- A window: `sum` of its buckets, `tail` the oldest bucket kept, `head` the newest, and one field a bucket.
-- A reservation: "bucket:cost,bucket:cost|prompt tokens|completion tokens|note".
assert(#KEYS >= 4 and #ARGV == 3 + 4 * (#KEYS - 4), 'admit: KEYS and ARGV do not fit')
local now = partition_now(KEYS[1])
local windows, wait, refused_by = {}, 0, 0

local function slide(key, cap, window, width, cost)
  local state = redis.call('HMGET', key, 'sum', 'tail', 'head')
  local bucket = math.floor(now / width)
  local sum, tail, head = tonumber(state[1]) or 0, tonumber(state[2]) or bucket, tonumber(state[3]) or bucket
  if bucket < head then bucket = head end
  local oldest = bucket - window / width
  if tail < oldest then
    if head < oldest then
      redis.call('DEL', key)
      sum, tail = 0, bucket
    else
      local gone = {}
      for b = tail, oldest - 1 do gone[#gone + 1] = b end
      for _, units in ipairs(redis.call('HMGET', key, unpack(gone))) do sum = sum - (tonumber(units) or 0) end
      redis.call('HDEL', key, unpack(gone))
      tail = oldest
      redis.call('HSET', key, 'sum', sum, 'tail', tail)
    end
  end
  return {key = key, cap = cap, window = window, width = width, cost = cost,
          sum = sum, tail = tail, head = state[3] and head, bucket = bucket}
end

local function wait_for_room(w)
  local missing, buckets = w.sum + w.cost - w.cap, {}
  for b = w.tail, w.bucket do buckets[#buckets + 1] = b end
  for i, units in ipairs(redis.call('HMGET', w.key, unpack(buckets))) do
    missing = missing - (tonumber(units) or 0)
    if missing <= 0 then return (buckets[i] + w.window / w.width + 1) * w.width - now end
  end
  return w.window
end

for i = 5, #KEYS do
  local a = 4 * (i - 4)
  local w = slide(KEYS[i], tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]))
  windows[i - 4] = w
  if w.sum + w.cost > w.cap then
    local w_wait = wait_for_room(w)
    if w_wait > wait then wait, refused_by = w_wait, i - 4 end
  end
end

local reply = {wait, refused_by, tonumber(redis.call('GET', KEYS[4])) or 0}
local reserved = {}
for i, w in ipairs(windows) do
  if wait == 0 then
    w.sum = w.sum + w.cost
    if w.head == w.bucket then
      redis.call('HINCRBY', w.key, w.bucket, w.cost)
      redis.call('HINCRBY', w.key, 'sum', w.cost)
    else
      redis.call('HSET', w.key, 'sum', w.sum, 'tail', w.tail, 'head', w.bucket, w.bucket, w.cost)
      redis.call('PEXPIRE', w.key, 2 * w.window)
    end
    reserved[i] = w.bucket .. ':' .. w.cost
  end
  reply[2 + 2 * i] = math.max(w.cap - w.sum, 0)
  reply[3 + 2 * i] = w.sum > 0 and (math.max(w.bucket, w.head or 0) + w.window / w.width + 1) * w.width - now or 0
end
if wait == 0 then
  redis.call('HSET', KEYS[2], ARGV[1], table.concat(reserved, ',') .. '|0|0|' .. ARGV[3])
  redis.call('ZADD', KEYS[3], now + ARGV[2], ARGV[1])
end
return reply
