-- Extend an owner's lease. ARGV[2] the owner  ARGV[3] until when
-- Returns {whether it is known, its runs with a request to cancel…}

local known = redis.call('HEXISTS', ARGV[1] .. 'owners', ARGV[2])
if known == 1 then redis.call('ZADD', ARGV[1] .. 'owners:until', ARGV[3], ARGV[2]) end
local answer = redis.call('SMEMBERS', ARGV[1] .. 'c:' .. ARGV[2])
table.insert(answer, 1, known)
return answer
