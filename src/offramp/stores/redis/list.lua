-- A part of a listing.
--
-- ARGV[2] the index  ARGV[3] `newest` or `oldest` first  ARGV[4] the lowest id  ARGV[5] what every id is below
-- ARGV[6] how many  ARGV[7] how many to scan
-- ARGV[8] the class, or empty  ARGV[9] a part of the id, session or metadata, in lower case, or empty
-- ARGV[10…] fields with their required values
-- Returns {the id to continue after, empty at the end; records without large results…}

local tag, limit, looks = ARGV[1], tonumber(ARGV[6]), tonumber(ARGV[7])
local class, part = ARGV[8], ARGV[9]
local names, wanted = {}, {}
for place = 10, #ARGV, 2 do
  names[#names + 1], wanted[#wanted + 1] = ARGV[place], ARGV[place + 1]
end

local function has_part(text)
  return text and string.find(string.lower(text), part, 1, true) ~= nil
end

-- Whether a run is of the class and has the part; the order of `record` is that of rows.py.
local function fits_inside(id)
  if class == '' and part == '' then return true end
  local got = redis.call('HMGET', tag .. 'r:' .. id, 'record', 'session')
  if not got[1] then return false end
  local kept = cmsgpack.unpack(got[1])
  if class ~= '' and kept[2] ~= class then return false end
  if part == '' or has_part(id) or has_part(got[2]) then return true end
  for _, value in pairs(kept[6]) do
    if has_part(value) then return true end
  end
  return false
end

local function fits(id)
  if #names > 0 then
    for place, value in ipairs(redis.call('HMGET', tag .. 'r:' .. id, unpack(names))) do
      if value ~= wanted[place] then return false end
    end
  end
  return fits_inside(id)
end

local found, ids = {''}, nil
local low, high = '[' .. ARGV[4], '(' .. ARGV[5]
if ARGV[3] == 'newest' then
  ids = redis.call('ZRANGE', tag .. ARGV[2], high, low, 'BYLEX', 'REV', 'LIMIT', 0, looks)
else
  ids = redis.call('ZRANGE', tag .. ARGV[2], low, high, 'BYLEX', 'LIMIT', 0, looks)
end
for place, id in ipairs(ids) do
  if fits(id) then
    local record = read_record(id, true)
    if #record > 0 then found[#found + 1] = record end
  end
  if #found > limit then return found end
  if place == looks then found[1] = id end
end
return found
