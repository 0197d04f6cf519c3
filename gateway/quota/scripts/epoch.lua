-- Read the epoch of an organisation's directory entries.
--
-- KEYS  1 epoch
-- Returns it; 0 when there is none
assert(#KEYS == 1 and #ARGV == 0, 'epoch: KEYS and ARGV do not fit')
return tonumber(redis.call('GET', KEYS[1])) or 0
