-- Take or renew a duty of one process for all. ARGV[2] the duty  ARGV[3] the owner  ARGV[4] now  ARGV[5] until when
-- Returns 1 if it was taken.

local key = ARGV[1] .. 'duty:' .. ARGV[2]
local now, until_at = tonumber(ARGV[4]), tonumber(ARGV[5])
local owner, held_until = unpack(redis.call('HMGET', key, 'owner', 'until'))
if owner and owner ~= ARGV[3] and tonumber(held_until) > now then return 0 end
if until_at > now then
  redis.call('HSET', key, 'owner', ARGV[3], 'until', ARGV[5])
  redis.call('EXPIRE', key, math.ceil(until_at - now))
else
  redis.call('DEL', key)
end
return 1
