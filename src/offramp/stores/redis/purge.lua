-- Remove the data of runs past their retention. ARGV[2] now  ARGV[3] how many at most
-- ARGV[4] how long a purged run stays known  ARGV[5] how much longer its hash stays if no process sweeps it
-- ARGV[6] the ids of runs that may be purged, packed; empty for all
-- Returns how many runs were emptied.

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
      call('HSET', P .. 'r:' .. id, 'purged', 1)
      call('EXPIRE', P .. 'r:' .. id, math.ceil(known_s + tonumber(ARGV[5])))
    end
    call('ZREM', P .. 'purge', due[place])
    call('ZADD', P .. 'tomb', text(tonumber(due[place + 1]) + known_s), due[place])
    emptied = emptied + 1
  end
end
return emptied
