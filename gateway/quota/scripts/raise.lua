-- Raise budgets to what the ledger has booked, so that a Redis which lost some of it heals.
--
-- A budget that is not here, or stands in another month, is left alone: admission has it looked up in the ledger. One
-- that stands higher is left alone too: it holds what is reserved, or not booked yet.
--
-- KEYS  1 clock, as in every script of a partition; not read  2... one budget (hash: month, used) for each amount
-- ARGV  1 month (202611)  then for each budget: thousandths of a cost unit that the ledger has booked
-- Returns how many were raised
assert(#KEYS >= 2 and #ARGV == #KEYS, 'raise: KEYS and ARGV do not fit')
local raised = 0
for i = 2, #KEYS do
  local budget = redis.call('HMGET', KEYS[i], 'month', 'used')
  if budget[1] and tonumber(budget[1]) == tonumber(ARGV[1]) and (tonumber(budget[2]) or 0) < tonumber(ARGV[i]) then
    redis.call('HSET', KEYS[i], 'used', ARGV[i])
    raised = raised + 1
  end
end
return raised
