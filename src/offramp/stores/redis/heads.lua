-- The heads of the runs ARGV[2…], without unknown ones; the order of `record` is that of rows.py.

local found = {}
for place = 2, #ARGV do
  local key = ARGV[1] .. 'r:' .. ARGV[place]
  local got = redis.call('HMGET', key, 'tenant', 'pipeline', 'session', 'status', 'path', 'finished', 'record')
  if got[4] then
    got[7] = cmsgpack.unpack(got[7])[2]
    got[8], got[9] = redis.call('LLEN', ARGV[1] .. 'e:' .. ARGV[place]), ARGV[place]
    got[10] = redis.call('HEXISTS', key, 'demotion')
    found[#found + 1] = got
  end
end
return found
