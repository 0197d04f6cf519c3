-- Note how far the ledger has committed a partition's events, then drop these from the stream: who keeps a settlement
-- until it is confirmed never sees it gone and not confirmed. The note goes up only: ledgers may be several.
--
-- KEYS  1 confirmed  2 events
-- ARGV  1 id of the last entry committed (ms-seq)  2 the id after it  3 life of the note in ms
-- Returns how many entries were dropped
assert(#KEYS == 2 and #ARGV == 3, 'confirm: KEYS and ARGV do not fit')
local function numbers(id)
  local ms, seq = string.match(id or '0-0', '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local ms, seq = numbers(ARGV[1])
local noted_ms, noted_seq = numbers(redis.call('GET', KEYS[1]) or nil)
if ms > noted_ms or (ms == noted_ms and seq > noted_seq) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return redis.call('XTRIM', KEYS[2], 'MINID', ARGV[2])
