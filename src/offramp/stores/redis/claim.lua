-- Which queued runs a claim takes: `choose` of core/claims.py, in the order of core/order.py, restated.

local DUE = 1 - 1e-9

-- Whether the lines of a pipeline hold what its queue holds: a process of an older version keeps no lines.
local function is_whole(pipeline)
  local count, levels = call('ZCARD', P .. 'q1:' .. pipeline), call('HVALS', P .. 'lv:' .. pipeline)
  for _, runs in ipairs(levels) do count = count + tonumber(runs) end
  return count == call('ZCARD', P .. 'q:' .. pipeline)
end

-- Make the lines of a pipeline anew.
local function remake(pipeline)
  for _, priority in ipairs(call('HKEYS', P .. 'lv:' .. pipeline)) do
    for _, member in ipairs(call('ZRANGE', P .. 'n:' .. pipeline .. ' ' .. priority, 0, -1)) do
      local line = string.match(member, '^%S+ (.*)$')
      local _, class = parts_of(line)
      call('DEL', P .. 'l:' .. pipeline .. ' ' .. line, P .. 'nc:' .. pipeline .. ' ' .. class)
    end
    call('DEL', P .. 'n:' .. pipeline .. ' ' .. priority)
  end
  call('DEL', P .. 'lv:' .. pipeline, P .. 'q1:' .. pipeline)
  for _, id in ipairs(call('ZRANGE', P .. 'q:' .. pipeline, 0, -1)) do
    local run = load(id)
    if not run or run.status ~= 'queued' then
      call('ZREM', P .. 'q:' .. pipeline, id)
    elseif (run.deaths or 0) > 0 then
      call('ZADD', P .. 'q1:' .. pipeline, text(-run.priority), id)
    else
      join_line(run)
    end
  end
end

-- What a claim sees: by priority the lines and the tags of their tenants; of each class the oldest run.

local function level_of(seen, priority)
  if not seen.levels[priority] then
    seen.levels[priority] = {tags = {}, lines = {}, charged = {}, has_line = {}}
    seen.order[#seen.order + 1] = priority
    table.sort(seen.order, function(a, b) return a > b end)
  end
  return seen.levels[priority]
end

local function see_oldest(seen, class, id)
  if not seen.oldest[class] or id < seen.oldest[class] then seen.oldest[class] = id end
end

local function see(seen, pipeline, member)
  local first, line = string.match(member, '^(%S+) (.*)$')
  local priority, class, tenant = parts_of(line)
  see_oldest(seen, class, first)
  local key = P .. 'l:' .. pipeline .. ' ' .. line
  if seen.keys[key] then return end
  seen.keys[key] = true
  local tag = tonumber(call('HGET', P .. 'tags:' .. pipeline, priority .. ' ' .. tenant))
  local level = level_of(seen, tonumber(priority))
  level.tags[tenant] = math.max(tag, level.tags[tenant] or tag)
  level.has_line[tenant] = true
  level.lines[#level.lines + 1] = {class = class, tenant = tenant, ids = {first}, at = 1, key = key, read = 1}
end

-- The first run of a line; more of them are read as they are needed.
local function head(line)
  if not line.ids[line.at] and line.key then
    local more = call('ZRANGE', line.key, line.read, line.read + HEADS_MAX - 1)
    if #more == 0 then line.key = nil end
    for _, id in ipairs(more) do line.ids[#line.ids + 1] = id end
    line.read = line.read + #more
  end
  return line.ids[line.at]
end

-- The next line of a level, of one class or of any.
local function next_line(level, class)
  local best, tag, first
  for _, line in ipairs(level.lines) do
    local id = (not class or line.class == class) and head(line)
    local own = level.tags[line.tenant]
    if id and (not best or own < tag or (own == tag and id < first)) then best, tag, first = line, own, id end
  end
  return best
end

local function waits(seen, class)
  for _, level in pairs(seen.levels) do
    if next_line(level, class) then return true end
  end
  return false
end

local function is_alone(level, tenant)
  for _, line in ipairs(level.lines) do
    if line.tenant ~= tenant and head(line) then return false end
  end
  return true
end

local function company_of(run)
  -- A value without company comes from an older version, which executed suspects alone.
  if (run.company or 0) > 0 then return run.company end
  return run.deaths >= SUSPECT and 1 or UNBOUNDED
end

-- `_together`: the runs with deaths that join those that the owner has.
local function see_died(seen, owner, pipelines)
  local died, bound, held = {}, UNBOUNDED, 0
  for _, pipeline in ipairs(pipelines) do
    for _, kind in ipairs({'q1:', 'qs:'}) do
      for _, id in ipairs(call('ZRANGE', P .. kind .. pipeline, 0, HEADS_MAX - 1)) do
        local run = load(id)
        if run then died[#died + 1] = run else call('ZREM', P .. kind .. pipeline, id) end
      end
    end
  end
  if #died == 0 then return end
  for _, id in ipairs(call('SMEMBERS', P .. 'x:' .. owner)) do
    local run = load(id)
    if run then held, bound = held + 1, math.min(bound, company_of(run)) end
  end
  table.sort(died, function(a, b)
    if a.priority ~= b.priority then return a.priority > b.priority end
    if company_of(a) ~= company_of(b) then return company_of(a) > company_of(b) end
    return a.id < b.id
  end)
  for _, run in ipairs(died) do see_oldest(seen, class_of(run), run.id) end
  for place, run in ipairs(died) do
    bound = math.min(bound, company_of(run))
    if held + place - 1 >= bound then return end
    local level = level_of(seen, run.priority)
    if not level.tags[run.tenant] then
      local first = next_line(level)
      level.tags[run.tenant] = first and level.tags[first.tenant] or 0
    end
    level.lines[#level.lines + 1] = {class = class_of(run), tenant = run.tenant, ids = {run.id}, at = 1}
  end
end

local function seen_by(owner, limit, pipelines, classes)
  local seen = {levels = {}, order = {}, keys = {}, oldest = {}}
  local known, is_cut = {}, false
  for class in pairs(classes) do
    if class ~= '' then known[#known + 1] = class end
  end
  for _, pipeline in ipairs(pipelines) do
    local left = (limit + 1) * (#known + CLASSES_SPARE)
    local priorities = call('HKEYS', P .. 'lv:' .. pipeline)
    table.sort(priorities, function(a, b) return tonumber(a) > tonumber(b) end)
    for _, priority in ipairs(priorities) do
      local members = left > 0 and call('ZRANGE', P .. 'n:' .. pipeline .. ' ' .. priority, 0, left - 1) or {}
      for _, member in ipairs(members) do see(seen, pipeline, member) end
      left = left - #members
    end
    is_cut = is_cut or left <= 0
  end
  see_died(seen, owner, pipelines)
  for class in pairs(seen.oldest) do
    if not classes[class] then known[#known + 1] = class end
  end
  seen.known = known
  for _, pipeline in ipairs(is_cut and pipelines or {}) do
    for _, class in ipairs(known) do
      for _, member in ipairs(call('ZRANGE', P .. 'nc:' .. pipeline .. ' ' .. class, 0, limit)) do
        see(seen, pipeline, member)
      end
    end
  end
  return seen
end

-- Grants, one after the other: `Queue.take`.

local function due_line(seen, late, earned)
  local due = {}
  for _, class in ipairs(late) do
    if earned[class] >= DUE then due[#due + 1] = class end
  end
  table.sort(due, function(a, b)
    if earned[a] ~= earned[b] then return earned[a] > earned[b] end
    return a < b
  end)
  for _, class in ipairs(due) do
    for _, priority in ipairs(seen.order) do
      local line = next_line(seen.levels[priority], class)
      if line then return seen.levels[priority], line end
    end
  end
end

local function first_line(seen)
  for _, priority in ipairs(seen.order) do
    local line = next_line(seen.levels[priority])
    if line then return seen.levels[priority], line end
  end
end

local function granted(seen, limit, classes)
  local ids, late, earned = {}, {}, {}
  for _, class in ipairs(seen.known) do
    local oldest, terms = seen.oldest[class], classes[class] or classes['']
    if oldest and oldest < terms[2] then
      late[#late + 1] = class
      earned[class] = tonumber(call('HGET', P .. 'earned', class) or 0)
    end
  end
  while #ids < limit do
    local level, line = due_line(seen, late, earned)
    local by_share = level ~= nil
    if not level then level, line = first_line(seen) end
    if not level then break end
    for _, class in ipairs(late) do
      if class ~= line.class and waits(seen, class) then
        local share = (classes[class] or classes[''])[1]
        earned[class] = math.min(earned[class] + share / (1 - share), 2 / (1 - share))
      end
    end
    if by_share then earned[line.class] = earned[line.class] - 1 end
    if not is_alone(level, line.tenant) then
      level.tags[line.tenant] = level.tags[line.tenant] + 1
      level.charged[line.tenant] = level.has_line[line.tenant]
    end
    ids[#ids + 1] = head(line)
    line.at = line.at + 1
  end
  return ids, earned
end

-- What one claim leaves to the next.

local function forget_tags(pipeline)
  local waiting, least, count = {}, {}, 0
  for _, priority in ipairs(call('HKEYS', P .. 'lv:' .. pipeline)) do
    local members = call('ZRANGE', P .. 'n:' .. pipeline .. ' ' .. priority, 0, -1, 'WITHSCORES')
    least[priority] = tonumber(members[2])
    for place = 1, #members, 2 do
      local of, _, tenant = parts_of(string.match(members[place], '^%S+ (.*)$'))
      waiting[of .. ' ' .. tenant] = true
    end
  end
  local tags = call('HGETALL', P .. 'tags:' .. pipeline)
  for place = 1, #tags, 2 do
    local bound = least[string.match(tags[place], '^%S+')]
    if not waiting[tags[place]] and (not bound or tonumber(tags[place + 1]) <= bound) then
      call('HDEL', P .. 'tags:' .. pipeline, tags[place])
    end
  end
end

local function charge(seen, pipelines)
  for priority, level in pairs(seen.levels) do
    local name = string.format('%d', priority)
    for tenant in pairs(level.charged) do
      local tag = level.tags[tenant]
      if tag > tonumber(call('HGET', P .. 'levels', name) or 0) then call('HSET', P .. 'levels', name, text(tag)) end
      for _, pipeline in ipairs(pipelines) do
        if call('HEXISTS', P .. 'tags:' .. pipeline, name .. ' ' .. tenant) == 1 then
          call('HSET', P .. 'tags:' .. pipeline, name .. ' ' .. tenant, text(tag))
          for _, class in ipairs(seen.known) do
            local line = name .. ' ' .. class .. ' ' .. tenant
            local first = call('ZRANGE', P .. 'l:' .. pipeline .. ' ' .. line, 0, 0)[1]
            if first then place_line(pipeline, line, first, first) end
          end
        end
      end
    end
  end
  for _, pipeline in ipairs(pipelines) do
    local waiting = 0
    for _, priority in ipairs(call('HKEYS', P .. 'lv:' .. pipeline)) do
      waiting = waiting + call('ZCARD', P .. 'n:' .. pipeline .. ' ' .. priority)
    end
    if call('HLEN', P .. 'tags:' .. pipeline) > 2 * waiting + TAGS_SPARE then forget_tags(pipeline) end
  end
end

-- The ids of the runs that an owner takes; `classes` are {share, text above the ids that are overdue} by name, those of
-- other classes under ''.
local function chosen(owner, limit, pipelines, classes)
  for _, pipeline in ipairs(pipelines) do
    if not is_whole(pipeline) then remake(pipeline) end
  end
  local seen, ids, earned
  for _ = 1, 2 do
    seen = seen_by(owner, limit, pipelines, classes)
    local found
    found, earned = granted(seen, limit, classes)
    ids = {}
    for _, id in ipairs(found) do
      local run = load(id)
      if run and run.status == 'queued' then ids[#ids + 1] = id end
    end
    if #ids == #found then break end
    for _, pipeline in ipairs(pipelines) do remake(pipeline) end
  end
  for class, credit in pairs(earned) do call('HSET', P .. 'earned', class, text(credit)) end
  return ids, seen
end
