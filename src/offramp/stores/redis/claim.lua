-- Which queued runs a claim takes: `choose` of core/claims.py, in the order of core/order.py, restated.

local DUE = 1 - 1e-9
local READ = 64  -- members of a sorted set that are read at once, at most
local TRIES = 4  -- of a claim that meets runs which are no longer queued

-- How many more runs the queue of a pipeline has than its lines: 0, unless a process of an older version, which keeps no
-- lines, has changed it.
local function lacks(pipeline)
  local count, levels = call('ZCARD', P .. 'q1:' .. pipeline), call('HVALS', P .. 'lv:' .. pipeline)
  for _, runs in ipairs(levels) do count = count + tonumber(runs) end
  return call('ZCARD', P .. 'q:' .. pipeline) - count
end

-- Put a run of the queue into its line, if it is in none. Returns whether anything changed.
local function mend(pipeline, id)
  local run = load(id)
  if not run or run.status ~= 'queued' then return call('ZREM', P .. 'q:' .. pipeline, id) > 0 end
  if (run.deaths or 0) > 0 then return call('ZADD', P .. 'q1:' .. pipeline, text(-run.priority), id) > 0 end
  if call('ZSCORE', P .. 'l:' .. pipeline .. ' ' .. line_of(run), id) then return false end
  join_line(run)
  return true
end

-- Look at the next `most` runs of a queue that differs from its lines: claim by claim, until all have been looked at.
-- What is left then are runs in lines that are no longer queued; claims drop them when it is their turn.
local function mend_lines(pipeline, most)
  local difference = lacks(pipeline)
  if difference == 0 then
    call('HDEL', P .. 'mends', pipeline)
    return
  end
  local kept = call('HGET', P .. 'mends', pipeline)
  local at, mended, left = 0, 0, nil
  if kept then at, mended, left = unpack(cmsgpack.unpack(kept)) end
  if left == difference then return end
  local ids = call('ZRANGE', P .. 'q:' .. pipeline, at, at + most - 1)
  for _, id in ipairs(ids) do
    if mend(pipeline, id) then mended = mended + 1 end
  end
  local next_at = {at + #ids, mended, false}
  if #ids < most then next_at = {0, 0, mended == 0 and difference < 0 and difference} end
  call('HSET', P .. 'mends', pipeline, cmsgpack.pack(next_at))
end

-- Whether a run may be taken from a line; lines without a key are of runs with deaths.
local function is_in(line, run)
  return run and run.status == 'queued' and (not line.key or (run.deaths or 0) == 0)
end

-- Take what is no longer queued out of the first runs of a line.
local function drop_gone(line, id, limit)
  if not line.key then
    call('ZREM', P .. 'q1:' .. line.pipeline, id)
    call('ZREM', P .. 'qs:' .. line.pipeline, id)
    return
  end
  local ids, gone = call('ZRANGE', line.key, 0, limit + MENDED_MAX), {}
  for _, each in ipairs(ids) do
    if not is_in(line, load(each)) then gone[#gone + 1] = each end
  end
  if #gone == 0 then return end
  call('ZREM', line.key, unpack(gone))
  local levels, priority = P .. 'lv:' .. line.pipeline, parts_of(line.name)
  if call('HINCRBY', levels, priority, -#gone) <= 0 then call('HDEL', levels, priority) end
  place_line(line.pipeline, line.name, ids[1], call('ZRANGE', line.key, 0, 0)[1])
end

-- Heaps of {number, text, …}, the least first.

local function is_less(a, b) return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2]) end

local function sift_down(heap, at)
  local item, count = heap[at], #heap
  while 2 * at <= count do
    local child = 2 * at
    if child < count and is_less(heap[child + 1], heap[child]) then child = child + 1 end
    if not is_less(heap[child], item) then break end
    heap[at], at = heap[child], child
  end
  heap[at] = item
end

local function push_item(heap, item)
  local at = #heap + 1
  while at > 1 do
    local parent = math.floor(at / 2)
    if not is_less(item, heap[parent]) then break end
    heap[at], at = heap[parent], parent
  end
  heap[at] = item
end

local function pop_item(heap)
  local last = table.remove(heap)
  if not heap[1] then return end
  heap[1] = last
  sift_down(heap, 1)
end

-- Members of the zsets of some pipelines in one order, by score, then member: calls `use(pipeline, member, score)` for
-- each until that returns true; about `wanted` are used.
local function each_member(pipelines, prefix, suffix, wanted, use)
  local heap, size = {}, math.min(wanted, READ)
  local function advance(source)
    source.at = source.at + 2
    if not source.members[source.at] and source.read > 0 then
      source.members, source.at = call('ZRANGE', source.key, source.read, source.read + size - 1, 'WITHSCORES'), 1
      source.read = #source.members == 2 * size and source.read + size or 0
    end
    local member = source.members[source.at]
    if not member then return false end
    source[1], source[2] = tonumber(source.members[source.at + 1]), member
    return true
  end
  for _, pipeline in ipairs(pipelines) do
    local key = P .. prefix .. pipeline .. ' ' .. suffix
    local members = call('ZRANGE', key, 0, size - 1, 'WITHSCORES')
    local source = {0, '', pipeline = pipeline, key = key, members = members, at = -1}
    source.read = #members == 2 * size and size or 0
    if advance(source) then push_item(heap, source) end
  end
  while heap[1] do
    local source = heap[1]
    if use(source.pipeline, source[2], source[1]) then return end
    if advance(source) then sift_down(heap, 1) else pop_item(heap) end
  end
end

-- What a claim sees: by priority the lines, in a heap for each class, and the tags of their tenants; of each class the
-- oldest run. As in core/order.py, a line gets its present place in its heap when it comes first.

local function level_of(seen, priority)
  if not seen.levels[priority] then
    seen.levels[priority] = {tags = {}, groups = {}, charged = {}, has_line = {}, waiting = {}, tenants = 0}
    seen.order[#seen.order + 1] = priority
    table.sort(seen.order, function(a, b) return a > b end)
  end
  return seen.levels[priority]
end

local function see_oldest(seen, class, id)
  if not seen.oldest[class] or id < seen.oldest[class] then seen.oldest[class] = id end
end

local function add_line(seen, level, line)
  local tenant, class = line.tenant, line.class
  if not level.waiting[tenant] then level.tenants = level.tenants + 1 end
  level.waiting[tenant] = (level.waiting[tenant] or 0) + 1
  seen.waiting[class] = (seen.waiting[class] or 0) + 1
  level.groups[class] = level.groups[class] or {}
  push_item(level.groups[class], {level.tags[tenant], line.ids[1], line})
end

-- See a line; `tag` is read unless it is given.
local function see(seen, pipeline, member, tag)
  local first, name, priority, class, tenant = string.match(member, '^(%S+) ((%S+) (%S+) (.*))$')
  local key = P .. 'l:' .. pipeline .. ' ' .. name
  if seen.lines[key] then return end
  see_oldest(seen, class, first)
  tag = tag or tonumber(call('HGET', P .. 'tags:' .. pipeline, priority .. ' ' .. tenant))
  local level = level_of(seen, tonumber(priority))
  level.tags[tenant] = math.max(tag, level.tags[tenant] or tag)
  level.has_line[tenant] = true
  local line = {pipeline = pipeline, name = name, class = class, tenant = tenant, ids = {first}, at = 1, key = key}
  line.more = true
  seen.lines[key] = line
  add_line(seen, level, line)
end

-- The first run of a line; more of them are read as they are needed.
local function head(line)
  if not line.ids[line.at] and line.more then
    local read = #line.ids
    local more = call('ZRANGE', line.key, read, 2 * read - 1)
    line.more = #more == read
    for place, id in ipairs(more) do line.ids[read + place] = id end
  end
  return line.ids[line.at]
end

-- The next line of a level in one class.
local function first_of(level, heap)
  while heap and heap[1] do
    local item = heap[1]
    local line = item[3]
    local id, tag = head(line), level.tags[line.tenant]
    if not id then
      pop_item(heap)
    elseif item[1] == tag and item[2] == id then
      return item
    else
      item[1], item[2] = tag, id
      sift_down(heap, 1)
    end
  end
end

-- The next line of a level.
local function next_line(level)
  local best
  for _, heap in pairs(level.groups) do
    local item = first_of(level, heap)
    if item and (not best or is_less(item, best)) then best = item end
  end
  return best and best[3]
end

-- The first run of a line is taken.
local function take_first(seen, level, line)
  line.at = line.at + 1
  if head(line) then return end
  seen.waiting[line.class] = seen.waiting[line.class] - 1
  level.waiting[line.tenant] = level.waiting[line.tenant] - 1
  if level.waiting[line.tenant] == 0 then level.waiting[line.tenant], level.tenants = nil, level.tenants - 1 end
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
    add_line(seen, level, {pipeline = run.pipeline, class = class_of(run), tenant = run.tenant, ids = {run.id}, at = 1})
  end
end

-- The first lines by priority, tag and oldest run. Whether those are not all.
local function see_first(seen, limit, pipelines, known)
  local priorities, of_priority = {}, {}
  for _, pipeline in ipairs(pipelines) do
    for _, priority in ipairs(call('HKEYS', P .. 'lv:' .. pipeline)) do
      if not of_priority[priority] then
        of_priority[priority] = {}
        priorities[#priorities + 1] = priority
      end
      table.insert(of_priority[priority], pipeline)
    end
  end
  table.sort(priorities, function(a, b) return tonumber(a) > tonumber(b) end)
  -- A tenant may have a line in every class and pipeline.
  local left = math.min((limit + 1) * #pipelines * (known + CLASSES_SPARE), LINES_MAX)
  for _, priority in ipairs(priorities) do
    each_member(of_priority[priority], 'n:', priority, left, function(pipeline, member, tag)
      see(seen, pipeline, member, tag)
      left = left - 1
      return left == 0
    end)
    if left == 0 then return true end
  end
  return false
end

-- Of each overdue class the first lines by oldest run: as many as it may be granted runs by its share, and one more.
local function see_overdue(seen, limit, pipelines, classes)
  local late = {}
  for _, class in ipairs(seen.known) do
    for _, pipeline in ipairs(pipelines) do
      local member = call('ZRANGE', P .. 'nc:' .. pipeline .. ' ' .. class, 0, 0)[1]
      if member then see_oldest(seen, class, string.match(member, '^%S+')) end
    end
    if seen.oldest[class] and seen.oldest[class] < (classes[class] or classes[''])[2] then late[#late + 1] = class end
  end
  for _, class in ipairs(late) do
    local share = (classes[class] or classes[''])[1]
    local most = math.min(limit, math.floor((2 + limit * share) / (1 - share)) + 1, math.floor(LINES_MAX / #late)) + 1
    each_member(pipelines, 'nc:', class, most, function(pipeline, member)
      see(seen, pipeline, member)
      most = most - 1
      return most == 0
    end)
  end
end

local function seen_by(owner, limit, pipelines, classes)
  local seen = {levels = {}, order = {}, lines = {}, oldest = {}, waiting = {}, known = {}}
  local known = seen.known
  for class in pairs(classes) do
    if class ~= '' then known[#known + 1] = class end
  end
  local is_cut = see_first(seen, limit, pipelines, #known)
  see_died(seen, owner, pipelines)
  for class in pairs(seen.oldest) do
    if not classes[class] then known[#known + 1] = class end
  end
  if is_cut then see_overdue(seen, limit, pipelines, classes) end
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
      local item = first_of(seen.levels[priority], seen.levels[priority].groups[class])
      if item then return seen.levels[priority], item[3] end
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
  local grants, late, earned = {}, {}, {}
  for _, class in ipairs(seen.known) do
    local oldest, terms = seen.oldest[class], classes[class] or classes['']
    if oldest and oldest < terms[2] then
      late[#late + 1] = class
      earned[class] = tonumber(call('HGET', P .. 'earned', class) or 0)
    end
  end
  while #grants < limit do
    local level, line = due_line(seen, late, earned)
    local by_share = level ~= nil
    if not level then level, line = first_line(seen) end
    if not level then break end
    for _, class in ipairs(late) do
      if class ~= line.class and (seen.waiting[class] or 0) > 0 then
        local share = (classes[class] or classes[''])[1]
        earned[class] = math.min(earned[class] + share / (1 - share), 2 / (1 - share))
      end
    end
    if by_share then earned[line.class] = earned[line.class] - 1 end
    if level.tenants > 1 then  -- alone, it uses up no other's turn
      level.tags[line.tenant] = level.tags[line.tenant] + 1
      level.charged[line.tenant] = level.has_line[line.tenant]
    end
    grants[#grants + 1] = {head(line), line}
    take_first(seen, level, line)
  end
  return grants, earned
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

-- Give the lines of a tenant their new tag.
local function retag(seen, pipeline, priority, tenant, tag)
  local moved = {}
  for _, class in ipairs(seen.known) do
    local name = priority .. ' ' .. class .. ' ' .. tenant
    local key = P .. 'l:' .. pipeline .. ' ' .. name
    local first = seen.lines[key] and head(seen.lines[key]) or call('ZRANGE', key, 0, 0)[1]
    if first then
      moved[#moved + 1] = tag
      moved[#moved + 1] = first .. ' ' .. name
    end
  end
  if #moved > 0 then call('ZADD', P .. 'n:' .. pipeline .. ' ' .. priority, unpack(moved)) end
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
          retag(seen, pipeline, name, tenant, text(tag))
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
  for _, pipeline in ipairs(pipelines) do mend_lines(pipeline, math.ceil(MENDED_MAX / #pipelines)) end
  local seen, ids, earned
  for _ = 1, TRIES do
    seen = seen_by(owner, limit, pipelines, classes)
    local grants
    grants, earned = granted(seen, limit, classes)
    ids = {}
    for _, grant in ipairs(grants) do
      local id, line = grant[1], grant[2]
      if is_in(line, load(id)) then ids[#ids + 1] = id else drop_gone(line, id, limit) end
    end
    if #ids == #grants then break end
  end
  for class, credit in pairs(earned) do call('HSET', P .. 'earned', class, text(credit)) end
  return ids, seen
end
