-- What was learned after the change ARGV[2], at most ARGV[3] cells of a pipeline and class, and sessions: the number of
-- the last change, then {group, member, number, value}; the group of sessions is empty.

local P, after, limit = ARGV[1], '(' .. ARGV[2], ARGV[3]
local found = {tonumber(redis.call('GET', P .. 'learned') or 0)}

local function read(group, order, values)
  local changed = redis.call('ZRANGEBYSCORE', order, after, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
  for place = 1, #changed, 2 do
    local value = redis.call('HGET', values, changed[place])
    if value then found[#found + 1] = {group, changed[place], tonumber(changed[place + 1]), value} end
  end
end

for _, group in ipairs(redis.call('SMEMBERS', P .. 'beliefs')) do read(group, P .. 'bo:' .. group, P .. 'bw:' .. group) end
read('', P .. 'so', P .. 'sw')
return found
