-- Report the progress of long requests and renew their leases, those of their slots too.
--
-- KEYS  1 clock  2 held  3 lease  4... the slots (sorted sets) of the requests, one after the other
-- ARGV  1 lease in ms, then for each request: id, prompt tokens, completion tokens so far, how many of KEYS are its
-- Returns how many of them are still held
assert(#KEYS >= 3 and #ARGV % 4 == 1, 'renew: KEYS and ARGV do not fit')
local now, alive, slot = partition_now(KEYS[1]), 0, 4
for i = 2, #ARGV, 4 do
  local held, slots = redis.call('HGET', KEYS[2], ARGV[i]), tonumber(ARGV[i + 3])
  if held then
    local reserved, note = string.match(held, '^([^|]*)|%d+|%d+|(.*)$')
    redis.call('HSET', KEYS[2], ARGV[i], reserved .. '|' .. ARGV[i + 1] .. '|' .. ARGV[i + 2] .. '|' .. note)
    redis.call('ZADD', KEYS[3], now + ARGV[1], ARGV[i])
    for k = slot, slot + slots - 1 do
      -- a slot whose lease had ended may have been given to another by now: it is taken back all the same, because the
      -- request does run
      redis.call('ZADD', KEYS[k], now + ARGV[1], ARGV[i])
      redis.call('PEXPIRE', KEYS[k], 2 * ARGV[1])
    end
    alive = alive + 1
  end
  slot = slot + slots
end
assert(slot == #KEYS + 1, 'renew: the slots are not those of the requests')
return alive
