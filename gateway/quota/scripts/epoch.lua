-- Read the epoch of an organisation's directory entries.
--
-- KEYS  1 epoch  2 clock
-- Returns it; where there is none, born (clock.lua), so that a Redis which has come back empty, and has lost epochs with
-- the rest, gives every organisation another epoch than before
assert(#KEYS == 2 and #ARGV == 0, 'epoch: KEYS and ARGV do not fit')
local _, _, born = partition_now(KEYS[2])
return tonumber(redis.call('GET', KEYS[1])) or born
