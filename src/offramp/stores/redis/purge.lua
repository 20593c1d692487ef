-- Remove the data of runs past their retention. ARGV[2] now  ARGV[3] how many at most
-- ARGV[4] how long a purged run stays known  ARGV[5] how much longer its hash stays if no process sweeps it
-- ARGV[6] the ids of runs that may be purged, packed; empty for all
-- Returns how many runs were emptied.

-- A run's record without the reasons of its route, the third of its values. Only the route is packed anew: an empty map
-- would become an array.
local function unreasoned(record)
  local at = record:byte(1) == 0xdc and 3 or 1
  at = (cmsgpack.unpack_one(record, at))
  at = (cmsgpack.unpack_one(record, at))
  local after, route = cmsgpack.unpack_one(record, at)
  route.reasons = {}
  return record:sub(1, at) .. cmsgpack.pack(route) .. record:sub(after + 1)
end

local now, most, known_s = ARGV[2], ARGV[3], tonumber(ARGV[4])
local named, emptied = nil, 0
if ARGV[6] ~= '' then
  named = {}
  for _, id in ipairs(cmsgpack.unpack(ARGV[6])) do named[id] = true end
end
local due = call('ZRANGE', P .. 'purge', '-inf', now, 'BYSCORE', 'LIMIT', 0, most, 'WITHSCORES')
for place = 1, #due, 2 do
  local id = cmsgpack.unpack(due[place])[1]
  if not named or named[id] then
    drop_webhook(id)
    for _, kind in ipairs({'e:', 'j:', 's:', 'k:', 't:', 'b:'}) do call('UNLINK', P .. kind .. id) end
    if load(id) then
      call('HDEL', P .. 'r:' .. id, 'input', 'webhook', 'seen', 'result', 'large', 'announces', 'signal_bytes')
      local key = P .. 'r:' .. id
      call('HSET', key, 'purged', 1, 'record', unreasoned(call('HGET', key, 'record')))
      local left = call('HGET', key, 'demotion')
      if left then
        local demotion = cmsgpack.unpack(left)
        demotion.reasons = nil
        if next(demotion.trace or {}) == nil then demotion.trace = nil end
        call('HSET', key, 'demotion', cmsgpack.pack(demotion))
      end
      call('EXPIRE', P .. 'r:' .. id, math.ceil(known_s + tonumber(ARGV[5])))
    end
    call('ZREM', P .. 'purge', due[place])
    call('ZADD', P .. 'tomb', text(tonumber(due[place + 1]) + known_s), due[place])
    emptied = emptied + 1
  end
end
return emptied
