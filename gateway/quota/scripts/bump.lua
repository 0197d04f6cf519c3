-- Give an organisation an epoch that it never had.
--
-- Microseconds of Redis's clock, and always above the last: where the clock stepped back the same epoch must not come
-- twice. Below 2^53, so Lua's doubles hold it exactly.
--
-- KEYS  1 epoch  2 clock
-- ARGV  1 its life in seconds
-- Returns it, as text
assert(#KEYS == 2 and #ARGV == 1, 'bump: KEYS and ARGV do not fit')
local _, _, born = partition_now(KEYS[2])
local time = redis.call('TIME')
local epoch = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = math.max(tonumber(redis.call('GET', KEYS[1])) or 0, born)
if epoch <= last then epoch = last + 1 end
local text = string.format('%.0f', epoch)
redis.call('SET', KEYS[1], text, 'EX', ARGV[1])
return text
