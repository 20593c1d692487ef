-- How many runs of each tenant are queued; the scripts count every change. A process of an older version, which does not
-- count, may have changed the queue: if the sum differs from its length, it is counted anew.

local P = ARGV[1]
local call = redis.call

local kept, sum, sane = call('HGETALL', P .. 'waiting'), 0, true
for place = 2, #kept, 2 do
  local count = tonumber(kept[place])
  sum, sane = sum + count, sane and count > 0
end
if sane and sum == call('SCARD', P .. 'queued') then return kept end
call('DEL', P .. 'waiting')
for _, id in ipairs(call('SMEMBERS', P .. 'queued')) do
  local tenant = call('HGET', P .. 'r:' .. id, 'tenant')
  if tenant then call('HINCRBY', P .. 'waiting', tenant, 1) end
end
return call('HGETALL', P .. 'waiting')
