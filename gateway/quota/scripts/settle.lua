-- Settle a request: give back to each limit what was reserved and not used, in the bucket where it was reserved, end
-- the reservation and append the request's event.
--
-- Without a reservation the limits are left alone and the event is appended all the same: the reservation was reclaimed
-- from a gateway that was cut off, or Redis has lost it, or this settlement is sent a second time. The ledger keeps one
-- row a request, and lets a settlement replace what the reclaimer could only estimate.
--
-- KEYS  1 clock  2 held  3 lease  4 events  5... one for each limit, as at admission
-- ARGV  1 request id  2 event (JSON)  3 most entries of the stream
--       4 'expired': only if the lease has ended (reclaim); 'held': only if there is a reservation (an admission whose
--       answer nobody waited for: it may have been refused, or never have come); '': in any case
--       then for each limit: units that were used; for slots any number
-- Returns 1 when it was settled now, 2 when only its event was recorded, 0 when there was nothing to end;
--         then the id of the event's entry ('' where there is none), and born (clock.lua)
assert(#KEYS >= 4 and #ARGV == #KEYS, 'settle: KEYS and ARGV do not fit')
local now, _, born = partition_now(KEYS[1])

local function record(code)
  return {code, redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[3], '*', 'e', ARGV[2]), born}
end

local held = redis.call('HGET', KEYS[2], ARGV[1])
if not held then
  if ARGV[4] ~= '' then return {0, '', born} end
  return record(2)
end
if ARGV[4] == 'expired' then
  local lease = redis.call('ZSCORE', KEYS[3], ARGV[1])
  if lease and tonumber(lease) > now then return {0, '', born} end
end

local correct = {}
local function window(key, bucket, delta, reserved)
  if delta == 0 and reserved == 0 then return end
  -- a bucket that has left the window, or a window that is gone, needs no correction and must not come back
  local tail = tonumber(redis.call('HGET', key, 'tail'))
  if tail and tonumber(bucket) >= tail then
    redis.call('HINCRBY', key, bucket, delta)
    redis.call('HINCRBY', key, 'sum', delta)
    if reserved ~= 0 then
      redis.call('HINCRBY', key, 'o' .. bucket, -reserved)
      redis.call('HINCRBY', key, 'open', -reserved)
    end
  end
end
function correct.w(key, bucket, delta) window(key, bucket, delta, 0) end
correct.t = window
function correct.s(key) redis.call('ZREM', key, ARGV[1]) end
function correct.b(key, month, delta)
  if delta ~= 0 and redis.call('HGET', key, 'month') == month then redis.call('HINCRBY', key, 'used', delta) end
end

local i = 5
for kind, bucket, cost in string.gmatch(string.match(held, '^[^|]*'), '(%a)(%d+):(%d+)') do
  correct[kind](KEYS[i], bucket, tonumber(ARGV[i]) - tonumber(cost), tonumber(cost))
  i = i + 1
end
assert(i == #KEYS + 1, 'settle: the limits are not those of the reservation')
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return record(1)
