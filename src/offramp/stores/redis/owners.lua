-- Every known owner: its last registration, the end of its lease, and what it says about itself.

local found = {}
local known = redis.call('HGETALL', ARGV[1] .. 'owners')
for place = 1, #known, 2 do
  local owner = known[place]
  local expires_at = redis.call('ZSCORE', ARGV[1] .. 'owners:until', owner)
  local about = redis.call('HGET', ARGV[1] .. 'about', owner)
  found[#found + 1] = {known[place + 1], expires_at, about}
end
return found
