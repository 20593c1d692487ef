-- A part of a listing, newest first.
--
-- ARGV[2] the index  ARGV[3] the id to continue after, or empty  ARGV[4] how many  ARGV[5] how many to scan
-- ARGV[6…] fields with their required values
-- Returns {the id to continue after, empty at the end; records without large results…}

local tag, limit, looks = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5])
local from = ARGV[3] == '' and '+' or '(' .. ARGV[3]
local names, wanted = {}, {}
for place = 6, #ARGV, 2 do
  names[#names + 1], wanted[#wanted + 1] = ARGV[place], ARGV[place + 1]
end

local function fits(id)
  if #names == 0 then return true end
  for place, value in ipairs(redis.call('HMGET', tag .. 'r:' .. id, unpack(names))) do
    if value ~= wanted[place] then return false end
  end
  return true
end

local found = {''}
local ids = redis.call('ZRANGE', tag .. ARGV[2], from, '-', 'BYLEX', 'REV', 'LIMIT', 0, looks)
for place, id in ipairs(ids) do
  if fits(id) then
    local record = read_record(id, true)
    if #record > 0 then found[#found + 1] = record end
  end
  if #found > limit then return found end
  if place == looks then found[1] = id end
end
return found
