-- Put budgets where they are not known, as the ledger has them; one that is known never stands below the ledger's.
--
-- KEYS  1 clock  2... budgets (hash)
-- ARGV  1 month (yyyymm)  2 '1': make those that are not there; '': leave them alone
--       then for each budget: units used in that month
-- Returns how many were changed
assert(#KEYS >= 2 and #ARGV == #KEYS + 1, 'restore: KEYS and ARGV do not fit')
local changed = 0
for i = 2, #KEYS do
  local state = redis.call('HMGET', KEYS[i], 'month', 'used')
  local month, spent = tonumber(state[1]), tonumber(ARGV[i + 1])
  if (not month and ARGV[2] == '1') or (month == tonumber(ARGV[1]) and tonumber(state[2]) < spent) then
    redis.call('HSET', KEYS[i], 'month', ARGV[1], 'used', ARGV[i + 1])
    redis.call('PEXPIRE', KEYS[i], 5356800000)
    changed = changed + 1
  end
end
return changed
