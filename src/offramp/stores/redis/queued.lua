-- How many runs of each tenant, or of each class, are queued; the scripts count every change. A process of an older
-- version, which does not count, may have changed the queue: if the sum differs from its length, it is counted anew.
--
-- ARGV[2] `waiting` for tenants, `waiting:class` for classes; the order of `record` is that of rows.py.

local P, counts = ARGV[1], ARGV[1] .. ARGV[2]
local call = redis.call

local function name_of(id)
  if ARGV[2] == 'waiting' then return call('HGET', P .. 'r:' .. id, 'tenant') end
  local kept = call('HGET', P .. 'r:' .. id, 'record')
  return kept and cmsgpack.unpack(kept)[2]
end

local kept, sum, sane = call('HGETALL', counts), 0, true
for place = 2, #kept, 2 do
  local count = tonumber(kept[place])
  sum, sane = sum + count, sane and count > 0
end
if sane and sum == call('SCARD', P .. 'queued') then return kept end
call('DEL', counts)
for _, id in ipairs(call('SMEMBERS', P .. 'queued')) do
  local name = name_of(id)
  if name then call('HINCRBY', counts, name, 1) end
end
return call('HGETALL', counts)
