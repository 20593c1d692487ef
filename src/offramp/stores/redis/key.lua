-- The runs of an API key. ARGV[2] the key  ARGV[3] what every id is above  ARGV[4] how many ids
-- Returns {how many of its runs have not ended, the newest ids, newest first}.
--
-- A process of an older version ends a run without taking it out of the set: some members are checked each time.

local P = ARGV[1]
local call = redis.call
local OUTCOMES = {completed = true, failed = true, cancelled = true, expired = true}

local open = P .. 'ok:' .. ARGV[2]
for _, id in ipairs(call('SRANDMEMBER', open, CHECKED_MAX)) do
  local status = call('HGET', P .. 'r:' .. id, 'status')
  if not status or OUTCOMES[status] then call('SREM', open, id) end
end
local newest = call('ZRANGE', P .. 'ix:k:' .. ARGV[2], '+', '(' .. ARGV[3], 'BYLEX', 'REV', 'LIMIT', 0, ARGV[4])
return {call('SCARD', open), newest}
