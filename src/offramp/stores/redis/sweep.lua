-- Forget purged runs whose time is over. ARGV[2] now  ARGV[3] how many at most. Returns their number.

local forgotten = call('ZRANGE', P .. 'tomb', '-inf', ARGV[2], 'BYSCORE', 'LIMIT', 0, ARGV[3])
for _, packed in ipairs(forgotten) do
  local id = cmsgpack.unpack(packed)[1]
  unindex(unpack(cmsgpack.unpack(packed)))
  call('DEL', P .. 'r:' .. id)
  call('ZREM', P .. 'tomb', packed)
end
return #forgotten
