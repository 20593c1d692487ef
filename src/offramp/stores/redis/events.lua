-- Events of a run. ARGV[2] its id  ARGV[3] the number to continue after  ARGV[4] '1' without step.delta
-- ARGV[5] how many at most  ARGV[6] bytes after which no more are added  ARGV[7] how many to scan
-- Returns {the last number scanned, 0 at the end; number, event, number, event…}

local key, at = ARGV[1] .. 'e:' .. ARGV[2], tonumber(ARGV[3])
local most, bytes_left, last = tonumber(ARGV[5]), tonumber(ARGV[6]), at + tonumber(ARGV[7])
local DELTA, PART = '{"type":"step.delta"', 64
local found = {0}
while at < last do
  local part = redis.call('LRANGE', key, at, at + PART - 1)
  for place, data in ipairs(part) do
    if ARGV[4] == '0' or string.sub(data, 1, #DELTA) ~= DELTA then
      found[#found + 1] = at + place
      found[#found + 1] = data
      bytes_left = bytes_left - #data
      if bytes_left <= 0 or #found > 2 * most then return found end
    end
  end
  if #part < PART then return found end
  at = at + PART
end
found[1] = at
return found
