-- How far the ledger has read and committed a partition's stream.
--
-- KEYS  1 confirmed  2 clock
-- Returns 1 the id of the last entry, empty if there is none  2 when the partition was born, 0 if it is empty
assert(#KEYS == 2 and #ARGV == 0, 'confirmed: KEYS and ARGV do not fit')
return {redis.call('GET', KEYS[1]) or '', tonumber(redis.call('HGET', KEYS[2], 'born')) or 0}
