-- Put budgets where they are not known, as the ledger has them: a new subject's, or those of a Redis that has come back
-- empty. One that is known by now is left alone: another gateway was first.
--
-- KEYS  1 clock, as in every script of a partition; not read  2... budgets (hash)
-- ARGV  1 month (yyyymm)  then for each budget: units used in that month
-- Returns how many were put there
assert(#KEYS >= 2 and #ARGV == #KEYS, 'restore: KEYS and ARGV do not fit')
local restored = 0
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    redis.call('HSET', KEYS[i], 'month', ARGV[1], 'used', ARGV[i])
    redis.call('PEXPIRE', KEYS[i], 5356800000)
    restored = restored + 1
  end
end
return restored
