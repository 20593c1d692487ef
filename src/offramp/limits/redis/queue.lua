-- What waits for a resource, in order: `Queue` of core/order.py and `Backlog` of core/limits, restated.
--
-- Waiters whose asker keeps a permit are in the queue `first`, all others in `rest`; the record has of each queue by
-- priority how many wait, all in all and by class, and the credit of overdue classes. Keys of a queue, after its prefix:
--   l PRIORITY CLASS TENANT  zset: a line, the ids of its waiters
--   g PRIORITY CLASS         zset: the lines of a class by tag, then by first waiter: `ID TENANT`
--   t PRIORITY               zset: tenants by their tags; some of them wait no longer
--   n PRIORITY               hash: how many lines each tenant that waits has
--   o CLASS                  zset: waiters by since when they wait

local function key_of(r, queue, kind, ...)
  return T .. 'q:' .. r.name .. ' ' .. queue .. ' ' .. kind .. table.concat({'', ...}, ' ')
end

local function level_of(r, queue, priority)
  local levels = r.s[queue]
  local name = text(priority)
  if not levels[name] then levels[name] = {count = 0, classes = {}} end
  return levels[name]
end

-- The priorities at which something waits, the highest first.
local function priorities_of(r, queue)
  local found = {}
  for name in pairs(r.s[queue]) do found[#found + 1] = tonumber(name) end
  table.sort(found, function(a, b) return a > b end)
  return found
end

local function queued(r, queue, class)
  local count = 0
  for _, level in pairs(r.s[queue]) do count = count + (level.classes[class] or 0) end
  return count
end

-- The line of a class at a priority that goes next: {tag, first waiter, tenant}.
local function first_line(r, queue, priority, class)
  local group, tags = key_of(r, queue, 'g', priority, class), key_of(r, queue, 't', priority)
  while true do
    local found = call('ZRANGE', group, 0, 0, 'WITHSCORES')
    if not found[1] then return nil end
    local id, tenant = string.match(found[1], '^(%S+) (.*)$')
    local tag = call('ZSCORE', tags, tenant)
    if tag == found[2] then return {tonumber(tag), id, tenant} end
    call('ZADD', group, tag, found[1])  -- its tenant was granted something since
  end
end

local function is_before(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end

-- The smallest tag among the tenants that are next in their classes.
local function least_tag(r, queue, priority)
  local least
  for class in pairs(level_of(r, queue, priority).classes) do
    local line = first_line(r, queue, priority, class)
    if line and (not least or line[1] < least) then least = line[1] end
  end
  return least
end

local function tag_of_new(r, queue, priority, tenant)
  local tags = key_of(r, queue, 't', priority)
  if level_of(r, queue, priority).count == 0 then
    local most = call('ZRANGE', tags, -1, -1, 'WITHSCORES')[2] or '0'
    call('DEL', tags)
    return most
  end
  local least = least_tag(r, queue, priority)
  local own = call('ZSCORE', tags, tenant)
  return own and tonumber(own) > least and own or text(least)
end

local function names_of(w) return w.queue, text(w.priority), w.class, w.tenant end

local function add_waiter(r, w)
  local queue, priority, class, tenant = names_of(w)
  local line, tags = key_of(r, queue, 'l', priority, class, tenant), key_of(r, queue, 't', priority)
  local before = call('ZRANGE', line, 0, 0)[1]
  if not before then
    local known = call('HGET', key_of(r, queue, 'n', priority), tenant)
    if not known then call('ZADD', tags, tag_of_new(r, queue, priority, tenant), tenant) end
    call('HINCRBY', key_of(r, queue, 'n', priority), tenant, 1)
  end
  call('ZADD', line, 0, w.id)
  if not before or w.id < before then
    local group = key_of(r, queue, 'g', priority, class)
    if before then call('ZREM', group, before .. ' ' .. tenant) end
    call('ZADD', group, call('ZSCORE', tags, tenant), w.id .. ' ' .. tenant)
  end
  call('ZADD', key_of(r, queue, 'o', class), text(w.since), w.id)
  local level = level_of(r, queue, priority)
  level.count, level.classes[class] = level.count + 1, (level.classes[class] or 0) + 1
  r.s.waits = r.s.waits + 1
end

-- Forget some tags that decide nothing, once there are many.
local function forget_tags(r, queue, priority)
  local tags, waiting = key_of(r, queue, 't', priority), key_of(r, queue, 'n', priority)
  if call('ZCARD', tags) <= 2 * call('HLEN', waiting) + C.TAGS_SPARE then return end
  local least = least_tag(r, queue, priority)
  for _, tenant in ipairs(call('ZRANGEBYSCORE', tags, '-inf', least and text(least) or '0', 'LIMIT', 0, C.TAGS_SPARE)) do
    if call('HEXISTS', waiting, tenant) == 0 then call('ZREM', tags, tenant) end
  end
end

local function remove_waiter(r, w)
  local queue, priority, class, tenant = names_of(w)
  local line, group = key_of(r, queue, 'l', priority, class, tenant), key_of(r, queue, 'g', priority, class)
  local tags = key_of(r, queue, 't', priority)
  local before = call('ZRANGE', line, 0, 0)[1]
  call('ZREM', line, w.id)
  call('ZREM', key_of(r, queue, 'o', class), w.id)
  local level = level_of(r, queue, priority)
  level.count, level.classes[class] = level.count - 1, level.classes[class] - 1
  if level.classes[class] == 0 then level.classes[class] = nil end
  r.s.waits = r.s.waits - 1
  if before == w.id then
    call('ZREM', group, w.id .. ' ' .. tenant)
    local first = call('ZRANGE', line, 0, 0)[1]
    if first then
      call('ZADD', group, call('ZSCORE', tags, tenant), first .. ' ' .. tenant)
    elseif call('HINCRBY', key_of(r, queue, 'n', priority), tenant, -1) == 0 then
      call('HDEL', key_of(r, queue, 'n', priority), tenant)
      forget_tags(r, queue, priority)
    end
  end
  if level.count == 0 then
    r.s[queue][priority] = nil
    call('EXPIRE', tags, C.KEPT_S)
  end
end

-- The first line of a level, over its classes.
local function next_line(r, queue, priority)
  local best, of_class
  for class in pairs(level_of(r, queue, priority).classes) do
    local line = first_line(r, queue, priority, class)
    if line and (not best or is_before(line, best)) then best, of_class = line, class end
  end
  return best, of_class
end

local function class_of(name) return CLASSES[name] or CLASSES['default'] end

-- Since when the oldest waiter of a class waits.
local function oldest(r, queue, class) return tonumber(call('ZRANGE', key_of(r, queue, 'o', class), 0, 0, 'WITHSCORES')[2]) end

-- The classes of `rest` whose oldest waiter is overdue.
local function overdue_of(r)
  local found, any = {}, false
  local seen = {}
  for _, level in pairs(r.s.rest) do
    for class in pairs(level.classes) do
      if not seen[class] then
        seen[class] = true
        if NOW - oldest(r, 'rest', class) > class_of(class).patience then found[class], any = true, true end
      end
    end
  end
  return any and found or nil
end

-- What goes next by the share of its class: of the class with the most credit.
local function due_by_share(r, overdue)
  local due = {}
  for class in pairs(overdue) do
    if (r.s.earned[class] or 0) >= C.DUE then due[#due + 1] = class end
  end
  table.sort(due, function(a, b)
    local x, y = r.s.earned[a], r.s.earned[b]
    return x > y or (x == y and a < b)
  end)
  for _, class in ipairs(due) do
    for _, priority in ipairs(priorities_of(r, 'rest')) do
      if level_of(r, 'rest', priority).classes[class] then
        return first_line(r, 'rest', text(priority), class), class, text(priority)
      end
    end
  end
end

-- What goes next: {queue, priority, class, tenant, id, by_share}; nil if nothing waits.
local function next_of(r, overdue)
  local queue = next(r.s.first) and 'first' or 'rest'
  local line, class, priority
  if overdue and queue == 'rest' then line, class, priority = due_by_share(r, overdue) end
  local by_share = line ~= nil
  if not line then
    local highest = priorities_of(r, queue)[1]
    if not highest then return nil end
    priority = text(highest)
    line, class = next_line(r, queue, priority)
  end
  return {queue = queue, priority = priority, class = class, tenant = line[3], id = line[2], by_share = by_share}
end

-- The grant of what goes next charges its tenant, and credits the overdue classes that it passes over.
local function charge(r, chosen, overdue)
  local earned = r.s.earned
  if chosen.queue == 'rest' and overdue then
    local share = r.spec.share
    for class in pairs(overdue) do
      if class ~= chosen.class and queued(r, 'rest', class) > 0 then
        earned[class] = math.min((earned[class] or 0) + share / (1 - share), 2 / (1 - share))
      end
    end
  end
  if chosen.by_share then earned[chosen.class] = earned[chosen.class] - 1 end
  if call('HLEN', key_of(r, chosen.queue, 'n', chosen.priority)) > 1 then  -- alone, it uses up no other's turn
    call('ZINCRBY', key_of(r, chosen.queue, 't', chosen.priority), 1, chosen.tenant)
  end
end

-- How many go before one that waits.
local function ahead_of(r, w)
  local first = 0
  for _, level in pairs(r.s.first) do first = first + level.count end
  if w.queue == 'first' then return first - 1 end
  local priority, higher, own, line = text(w.priority), 0, 0, 0
  local level = level_of(r, 'rest', priority)
  for class in pairs(level.classes) do
    local key = key_of(r, 'rest', 'l', priority, class, w.tenant)
    own = own + call('ZLEXCOUNT', key, '-', '(' .. w.id)
    line = line + call('ZCARD', key)
  end
  for name, each in pairs(r.s.rest) do
    if tonumber(name) > w.priority then higher = higher + each.count end
  end
  local tenants = call('HLEN', key_of(r, 'rest', 'n', priority))
  return first + higher + own + math.min(level.count - line, (own + 1) * (tenants - 1))
end
