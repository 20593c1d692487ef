-- The runs whose readers must read. ARGV[2…] run ids, each with the number of the last event that its reader has.

local behind = {}
for place = 2, #ARGV, 2 do
  local id = ARGV[place]
  local kept = redis.call('HMGET', ARGV[1] .. 'r:' .. id, 'status', 'finished')
  if not kept[1] or kept[2] or redis.call('LLEN', ARGV[1] .. 'e:' .. id) > tonumber(ARGV[place + 1]) then
    behind[#behind + 1] = id
  end
end
return behind
