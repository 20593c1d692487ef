-- Every known owner: its last registration, and the end of its lease.

local found = {}
local known = redis.call('HGETALL', ARGV[1] .. 'owners')
for place = 1, #known, 2 do
  found[#found + 1] = {known[place + 1], redis.call('ZSCORE', ARGV[1] .. 'owners:until', known[place])}
end
return found
