-- What is granted, refused and given back: `Gate`, `Book` and `stuck` of core/limits, restated.

-- What the next call of a step, or any call, will hardly use more than; nil if none ended yet. And how many ended.
local function expected(r, field)
  local used, count = string.match(call('HGET', T .. 'e:' .. r.name, field) or '', '^(%S+) (%S+)$')
  return tonumber(used), tonumber(count or 0)
end

-- The tokens to reserve for a call; false if the limit is smaller than what it needs, which is second.
local function need_of(r, tokens, tokens_max, step)
  local least = r.spec.least
  if not least then return 0 end
  local known = tokens
  if not known then
    known = expected(r, 's' .. step) or expected(r, 'a') or tokens_max or C.TOKENS_DEFAULT
    known = math.min(known, least)
  end
  local need = math.max(0, tokens_max and math.min(known, tokens_max) or known)
  if need > least then return false, need end
  return need
end

-- A call of a step used so many tokens. The last ones are in a zset, by what they used; each takes the oldest one's place.
local function learn(r, step, used)
  local all = T .. 'e:' .. r.name
  for _, field in ipairs({'s' .. step, 'a'}) do
    local key = T .. 'y:' .. r.name .. ' ' .. field
    local _, count = expected(r, field)
    if count == 0 and call('HLEN', all) > C.STEPS_MAX then
      local some = call('HRANDFIELD', all, 2)
      local other = some[1] == 'a' and some[2] or some[1]
      call('HDEL', all, other)
      call('DEL', T .. 'y:' .. r.name .. ' ' .. other)
    end
    call('ZADD', key, used, count % C.SAMPLES_MAX)
    local samples = call('ZCARD', key)  -- fewer than were called, if those of long ago are no longer kept
    local place = math.min(samples - 1, math.floor(C.QUANTILE * samples))
    local quantile = call('ZRANGE', key, place, place, 'WITHSCORES')[2]
    call('HSET', all, field, quantile .. ' ' .. text(count + 1))
    if count % C.DROP_EVERY == 0 then
      call('EXPIRE', key, C.KEPT_S)
      call('EXPIRE', all, C.KEPT_S)
    end
  end
end

-- The highest priority of what waits, and its class; nothing is below all.
local function top_of(r)
  local priority, class = -math.huge, ''
  for _, queue in ipairs({'first', 'rest'}) do
    for name, level in pairs(r.s[queue]) do
      local number = tonumber(name)
      for each in pairs(level.classes) do
        if number > priority or (number == priority and each > class) then priority, class = number, each end
      end
    end
  end
  return priority, class
end

local function is_lower(r, w) return w.queue == 'rest' and r.s.highest ~= nil and w.priority < r.s.highest end

local function foretell(r, w)
  local ahead = ahead_of(r, w)
  local why, at = foretold(r, math.floor(ahead / (1 - r.spec.share)), w.tokens, is_lower(r, w) and LOWER or ALL)
  return why, ahead, at and math.max(0, math.max(at, quiet or 0) - NOW) or false
end

local function say_waits(r, w) tell(w.client, {'w', w.id, foretell(r, w)}) end

-- Why one that would have to wait is refused: with how many wait, how long about, and the longest that may be.
local function full(r, w, because, limit)
  add_waiter(r, w)
  local why, _, expected = foretell(r, w)
  remove_waiter(r, w)
  tell(w.client, {'r', w.id, 'busy', because, limit or false, r.s.waits, expected, why, w.class, rate_of(r) or false})
end

-- Waiters.

local lift

-- What waits elsewhere and keeps permits of this resource counts as of the class that waits for these.
local function lift_keepers(r, class, priority)
  if r.s.kept[1] == 0 then return end
  local keepers = call('HGETALL', T .. 'keepers')
  for at = 1, #keepers, 2 do
    local other = resource(keepers[at + 1])
    local w = load_waiter(other, keepers[at])
    if w and w.priority < priority then
      for _, held in ipairs(w.holds) do
        if held[2] == r.name and call('HEXISTS', permits_key(r, w.client), held[1]) == 1 then
          lift(other, w, class, priority)
          break
        end
      end
    end
  end
end

-- An ask counts as of this class, if it is higher.
function lift(r, w, class, priority)
  if priority <= w.priority then return end
  local top = top_of(r)
  remove_waiter(r, w)
  w.class, w.priority = class, priority
  add_waiter(r, w)
  save_waiter(r, w)
  r.changed = true
  if priority > top then lift_keepers(r, class, priority) end
end

-- A waiter keeps its permits, or no longer does.
local function keeps(w, times)
  for _, held in ipairs(w.holds) do
    local r = resource(held[2])
    r.s.kept = {math.max(0, r.s.kept[1] + times), math.max(0, r.s.kept[2] + times * held[3])}
    r.changed = true
  end
end

local function enqueue(r, w)
  local top = top_of(r)
  add_waiter(r, w)
  save_waiter(r, w)
  call('SADD', T .. 'of:' .. w.client, w.id .. ' ' .. r.name)
  if w.run ~= '' then call('SADD', T .. 'run:' .. w.run, w.id .. ' ' .. r.name) end
  if w.queue == 'first' then
    call('HSET', T .. 'keepers', w.id, r.name)
    keeps(w, 1)
    local priority, class = -math.huge, ''
    for _, held in ipairs(w.holds) do
      local number, each = top_of(resource(held[2]))
      if number > priority or (number == priority and each > class) then priority, class = number, each end
    end
    lift(r, w, class, priority)
  end
  if w.priority > top then lift_keepers(r, w.class, w.priority) end
end

local function forget(r, w)
  call('HDEL', T .. 'w:' .. r.name, w.id)
  call('SREM', T .. 'of:' .. w.client, w.id .. ' ' .. r.name)
  if w.run ~= '' then call('SREM', T .. 'run:' .. w.run, w.id .. ' ' .. r.name) end
  if w.queue == 'first' then
    call('HDEL', T .. 'keepers', w.id)
    keeps(w, -1)
  end
end

local function dequeue(r, w)
  remove_waiter(r, w)
  forget(r, w)
  r.changed, r.advances = true, true
end

-- Grants.

-- A lower class is granted something in its turn, which is a part of its share, in advance for a while at most.
local function serve(r, class)
  local rate = rate_of(r)
  if not rate or rate == 0 then return end
  local until_ = math.max(NOW, r.s.served[class] or NOW) + 1 / (r.spec.share * rate)
  r.s.served[class] = math.min(until_, NOW + math.min(C.ADVANCE_S, class_of(class).patience))
end

-- Of the overdue classes those that have not had their share in advance; nil if there is none.
local function owed_of(r, overdue)
  local found
  for class in pairs(overdue or {}) do
    if (r.s.served[class] or NOW) <= NOW then
      found = found or {}
      found[class] = true
    end
  end
  return found
end

-- A grant; `extra` if a lower class gets it by its share.
local function begin_permit(r, w, extra)
  if not extra and is_lower(r, w) then serve(r, w.class) end
  begins(r, w.tokens)
  if not r.s.highest or w.priority > r.s.highest then r.s.highest = w.priority end
  r.s.granted[w.class] = NOW
  save_permit(r, {
    id = w.id, client = w.client, step = w.step, tokens = w.tokens, granted_at = NOW, written = false,
  })
  tell(w.client, {'g', w.id, w.tokens})
  r.changed = true
end

-- Whether a call may be made at once, as nothing waits.
local function fits(r, w)
  if r.s.waits > 0 or r.s.blocked > NOW or quiet then return false end
  pass(r)
  return not lacks(r, w.tokens, is_lower(r, w) and LOWER or ALL)
end

-- The part of the limits that a waiter may fill, which is next.
local function part_of(r, w, overdue)
  if not is_lower(r, w) or w.priority < priorities_of(r, 'rest')[1] then return ALL end
  return overdue and overdue[w.class] and OVERDUE or LOWER
end

-- When the last grant to a class is so long ago that its share of all calls would be another one.
local function turn_at(r, w)
  local rate = rate_of(r)
  if not rate or rate == 0 then return math.huge end
  return (r.s.granted[w.class] or -math.huge) + 1 / (r.spec.share * rate)
end

-- Whether a waiter may use what is left free of lower classes, as its class had less than its share lately.
local function has_turn(r, w, part)
  return part == OVERDUE and turn_at(r, w) <= NOW and not lacks(r, w.tokens, ALL)
end

-- Something changes when the windows have room, or when the class becomes overdue or has its turn.
local function wake(r, w, part)
  local due = free_at(r, w.tokens, part)
  if part == LOWER then
    local since = math.huge
    for _, queue in ipairs({'first', 'rest'}) do
      if queued(r, queue, w.class) > 0 then since = math.min(since, oldest(r, queue, w.class)) end
    end
    local turns = since + class_of(w.class).patience + C.AFTER_S
    due = math.min(due or turns, turns)
  elseif part == OVERDUE then
    local free = free_at(r, w.tokens, ALL)
    local turns = free and math.max(free, turn_at(r, w)) or math.huge
    if turns < math.huge then due = math.min(due or turns, turns) end
  end
  r.s.due = due
end

-- Grant what can be granted.
local function advance(r)
  r.changed = r.changed or r.s.due ~= nil
  r.advances, r.s.due = false, nil
  if r.s.waits == 0 or r.spec == UNKNOWN then return end
  r.changed = true
  if quiet or r.s.blocked > NOW then
    r.s.due = math.max(quiet or 0, r.s.blocked)
    return
  end
  pass(r)
  local overdue, owed, looked = nil, nil, false
  for _ = 1, C.GRANTS_MAX do
    if r.s.waits == 0 then return end
    if lacks(r, 0, ALL) then  -- nothing may go, whatever is next
      r.s.due = free_at(r, 0, ALL)
      return
    end
    if not looked then
      overdue, looked = overdue_of(r), true
      owed = owed_of(r, overdue)
    end
    local chosen = next_of(r, owed)
    local w = load_waiter(r, chosen.id)
    local part = part_of(r, w, overdue)
    local short = lacks(r, w.tokens, part)
    if short and not has_turn(r, w, part) then return wake(r, w, part) end
    charge(r, chosen, owed)
    if short then r.s.earned[w.class] = math.max(0, (r.s.earned[w.class] or 0) - 1) end  -- it went beside the order
    remove_waiter(r, w)
    forget(r, w)
    begin_permit(r, w, short or part == ALL)
    if overdue and overdue[w.class] then looked = false end
  end
  r.s.due = NOW
end

-- Ends.

local function write(r, p, at)
  if p.written then return end
  p.written = true
  note(r, 'c', at, 1, 1)
  r.changed = true
end

local function unused(r, p)
  r.s.held = math.max(0, r.s.held - 1)
  open(r, 'c', -1)
  open(r, 'k', -p.tokens)
  r.s.ended.unused = (r.s.ended.unused or 0) + 1
  r.changed, r.advances = true, true
end

-- The provider refused a call.
local function refused(r, p, how, says, blocked_s)
  r.s.refused_at, r.s.refused = NOW, says
  if how == 'exhausted' then
    blocks(r, NOW + C.EXHAUSTED_S)
    return
  end
  if not blocked_s then blocks(r, NOW + C.BLOCKED_DEFAULT_S) end
  cut(r, p.granted_at)
end

-- A call ends: {how, says, tokens, blocked_s}.
local function ends(r, p, how, says, tokens, blocked_s, written_at)
  write(r, p, written_at)
  local is_refused = how == 'throttled' or how == 'exhausted'
  local used = tokens and math.max(0, tokens) or (is_refused and 0 or p.tokens)
  if tokens and how == 'ok' and r.spec.least then learn(r, p.step, tokens) end
  r.s.held = math.max(0, r.s.held - 1)
  add_mean(r.s.held_s, math.max(0, NOW - p.granted_at))
  note(r, 'k', NOW, used, p.tokens)  -- of a resource that this version of the app does not know, too
  if used > 0 and #r.spec.tokens > 0 then add_mean(r.s.amount, used) end
  r.s.ended[how], r.s.used = (r.s.ended[how] or 0) + 1, r.s.used + used
  local scale, blocked = r.s.scale, r.s.blocked
  if how == 'ok' then grow(r) elseif is_refused then refused(r, p, how, says, blocked_s) end
  if blocked_s and blocked_s > 0 then blocks(r, NOW + math.min(blocked_s, C.BLOCKED_S_MAX)) end
  r.changed, r.advances = true, true
  r.shrank, r.stops = r.shrank or r.s.scale < scale, r.stops or blocked ~= r.s.blocked
end

-- What waits hears that it waits for longer.
local function say_blocked(r)
  if r.s.blocked <= math.max(NOW, r.s.said) + C.BLOCKED_SAID_S then return end
  r.s.said = r.s.blocked
  pass(r)
  for place, id in ipairs(call('HKEYS', T .. 'w:' .. r.name)) do
    if place > C.SAID_MAX then return end
    say_waits(r, load_waiter(r, id))
  end
end
