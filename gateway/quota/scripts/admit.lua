-- Admit a request: all limits that bind are checked, and all of them or none are taken, in one round trip.
--
-- KEYS  1 clock  2 held  3 lease  4 epoch  5... one for each limit: a window or a budget (hash), or slots (sorted set)
-- ARGV  1 request id; '': only look, take nothing  2 lease in ms  3 note kept with the reservation, opaque here
--       then for each limit: kind (w window, t window of which settlements give back, s slots, b budget), cap,
--       window ms, bucket ms (0 0 unless w or t), cost
--       (integers; cost <= cap)
-- Returns integers: 1 milliseconds until it may be tried again, 0 when it is admitted
--                   2 number of the limit that refused it for longest, 0 when it is admitted; -i when limit i is a
--                     budget that is not known here (1 is then its month): put it there with restore.lua and ask again
--                   3 the organisation's epoch (epoch.lua)  4 born (clock.lua)
--                   then for each limit: units left, milliseconds until the limit is whole again (0 for slots)
--
-- A window: `sum` of its buckets, `tail` the oldest bucket kept, `head` the newest, and one field a bucket; kind t also
-- `open`, the units in it that have not settled, and one field `o` a bucket of them.
-- Slots: request id -> end of its lease. A budget: `month` (yyyymm) and `used`.
-- A reservation: "kind bucket:cost,kind bucket:cost|prompt tokens|completion tokens|note", a budget's bucket its month.
assert(#KEYS >= 4 and #ARGV == 3 + 5 * (#KEYS - 4), 'admit: KEYS and ARGV do not fit')
local now, wall, born = partition_now(KEYS[1])
local request = ARGV[1]
local SLOT_WAIT = 100 -- what runs now may end at any time; whoever asks again a little later loses little
local look, take, ask_again, month_now, month_left = {}, {}, {}, nil, nil

function look.w(limit)
  local state = redis.call('HMGET', limit.key, 'sum', 'tail', 'head', 'open')
  local width, buckets = limit.width, limit.window / limit.width
  local bucket = math.floor(now / width)
  local sum, tail, head = tonumber(state[1]) or 0, tonumber(state[2]) or bucket, tonumber(state[3]) or bucket
  local open = tonumber(state[4]) or 0
  if bucket < head then bucket = head end
  local oldest = bucket - buckets
  if tail < oldest then
    if head < oldest then
      redis.call('DEL', limit.key)
      state[3], sum, tail, head, open = false, 0, bucket, bucket, 0
    else
      local gone = {}
      for b = tail, oldest - 1 do gone[#gone + 1] = b end
      for _, units in ipairs(redis.call('HMGET', limit.key, unpack(gone))) do sum = sum - (tonumber(units) or 0) end
      redis.call('HDEL', limit.key, unpack(gone))
      if limit.kind == 't' then
        for i, b in ipairs(gone) do gone[i] = 'o' .. b end
        for _, units in ipairs(redis.call('HMGET', limit.key, unpack(gone))) do open = open - (tonumber(units) or 0) end
        redis.call('HDEL', limit.key, unpack(gone))
        redis.call('HSET', limit.key, 'open', open)
      end
      tail = oldest
      redis.call('HSET', limit.key, 'sum', sum, 'tail', tail)
    end
  end
  limit.used, limit.tail, limit.head, limit.bucket, limit.open = sum, tail, state[3] and head, bucket, open
  limit.whole = function() return limit.used > 0 and (bucket + buckets + 1) * width - now or 0 end
end

function ask_again.w(limit)
  local missing, buckets = limit.used + limit.cost - limit.cap, {}
  if limit.kind == 't' and missing <= limit.open then return SLOT_WAIT end -- what has not settled yet may cover it
  for b = limit.tail, limit.bucket do buckets[#buckets + 1] = b end
  for i, units in ipairs(redis.call('HMGET', limit.key, unpack(buckets))) do
    missing = missing - (tonumber(units) or 0)
    if missing <= 0 then return (buckets[i] + limit.window / limit.width + 1) * limit.width - now end
  end
  return limit.window
end

function take.w(limit)
  if limit.head == limit.bucket then
    redis.call('HINCRBY', limit.key, limit.bucket, limit.cost)
    redis.call('HINCRBY', limit.key, 'sum', limit.cost)
  else
    redis.call('HSET', limit.key, 'sum', limit.used + limit.cost, 'tail', limit.tail, 'head', limit.bucket,
               limit.bucket, limit.cost)
    redis.call('PEXPIRE', limit.key, 2 * limit.window)
  end
  if limit.kind == 't' then
    redis.call('HINCRBY', limit.key, 'o' .. limit.bucket, limit.cost)
    redis.call('HINCRBY', limit.key, 'open', limit.cost)
  end
end

look.t, ask_again.t, take.t = look.w, ask_again.w, take.w

function look.s(limit)
  redis.call('ZREMRANGEBYSCORE', limit.key, '-inf', now)
  limit.used, limit.bucket = redis.call('ZCARD', limit.key), 0
  limit.whole = function() return 0 end
end

function ask_again.s() return SLOT_WAIT end

function take.s(limit)
  redis.call('ZADD', limit.key, now + ARGV[2], request)
  redis.call('PEXPIRE', limit.key, 2 * ARGV[2])
end

function look.b(limit)
  if not month_now then month_now, month_left = month_of(wall) end
  local state = redis.call('HMGET', limit.key, 'month', 'used')
  local month = tonumber(state[1])
  if not month then
    limit.unknown = true
    limit.used = 0
  elseif month < month_now then
    redis.call('HSET', limit.key, 'month', month_now, 'used', 0)
    redis.call('PEXPIRE', limit.key, 5356800000)
    limit.used, month = 0, month_now
  else
    limit.used = tonumber(state[2])
  end
  limit.bucket = month
  limit.whole = function() return limit.used > 0 and month_left or 0 end
end

function ask_again.b() return month_left end

function take.b(limit) redis.call('HINCRBY', limit.key, 'used', limit.cost) end

local limits, wait, refused_by = {}, 0, 0
for i = 5, #KEYS do
  local a = 5 * (i - 4) - 1
  local limit = {key = KEYS[i], kind = ARGV[a], cap = tonumber(ARGV[a + 1]), window = tonumber(ARGV[a + 2]),
                 width = tonumber(ARGV[a + 3]), cost = tonumber(ARGV[a + 4]), cost_text = ARGV[a + 4]}
  look[limit.kind](limit)
  limits[i - 4] = limit
  if limit.unknown then
    if refused_by >= 0 then wait, refused_by = month_now, 4 - i end
  elseif limit.used + limit.cost > limit.cap and refused_by >= 0 then
    local its_wait = ask_again[limit.kind](limit)
    if its_wait > wait then wait, refused_by = its_wait, i - 4 end
  end
end

local admitted = refused_by == 0 and request ~= ''
local reply, reserved = {wait, refused_by, tonumber(redis.call('GET', KEYS[4])) or born, born}, {}
for i, limit in ipairs(limits) do
  if admitted then
    take[limit.kind](limit)
    limit.used = limit.used + limit.cost
    reserved[i] = limit.kind .. limit.bucket .. ':' .. limit.cost_text
  end
  reply[3 + 2 * i] = math.max(limit.cap - limit.used, 0)
  reply[4 + 2 * i] = limit.whole()
end
if admitted then
  redis.call('HSET', KEYS[2], request, table.concat(reserved, ',') .. '|0|0|' .. ARGV[3])
  redis.call('ZADD', KEYS[3], now + ARGV[2], request)
end
return reply
