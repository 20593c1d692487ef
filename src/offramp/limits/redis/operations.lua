-- One call: the operations of a process, what they bring about, and the answer.

local asked  -- asks of this call that wait: {resource, waiter}
local recalled  -- calls that the server has forgotten, by resource
local life, levels
local tangles  -- whether there may be circles of waits

local function advance_all()
  for name in pairs(SPECS) do resource(name).advances = true end
end

-- A process is gone: its asks and permits end, except for those of `kept`. What it called counts on.
local function leave(client, kept)
  for _, member in ipairs(call('SMEMBERS', T .. 'of:' .. client)) do
    local id, name = string.match(member, '^(%S+) (.*)$')
    local w = not kept[id] and load_waiter(resource(name), id)
    if w then dequeue(resource(name), w) end
  end
  for _, name in ipairs(call('SMEMBERS', T .. 'names')) do
    for _, id in ipairs(call('HKEYS', T .. 'p:' .. name .. ' ' .. client)) do
      if not kept[id] then
        local r = resource(name)
        local p = load_permit(r, client, id)
        call('HDEL', permits_key(r, client), id)
        ends(r, p, 'cancelled', '', nil, nil, NOW)
      end
    end
  end
end

-- Nothing is granted, and no process is taken for gone, until all that live have told what they hold.
local function be_quiet()
  quiet = NOW + C.QUIET_S
  call('ZADD', T .. 'clients', text(quiet), '')
  advance_all()
end

local function holds_any()
  for _, name in ipairs(call('SMEMBERS', T .. 'names')) do
    if resource(name).s.held > 0 then return true end
  end
  return false
end

-- Processes whose leases ran out are gone. A lease that ends too late is of before the server's clock was set back. If
-- no process has called since long before, then its clock was set forward or it stood still, and those may live.
local function reap(called_at)
  for _, client in ipairs(call('ZRANGEBYSCORE', T .. 'clients', text(NOW + 2 * C.LEASE_S + C.QUIET_S), '+inf')) do
    call('ZADD', T .. 'clients', text(NOW + C.LEASE_S), client)
  end
  if quiet then return end
  local over = call('ZRANGEBYSCORE', T .. 'clients', '-inf', text(NOW), 'LIMIT', 0, C.REAP_MAX)
  if NOW - called_at > C.LEASE_S / 2 and (over[2] or (over[1] or '') ~= '') and holds_any() then return be_quiet() end
  for _, client in ipairs(over) do
    call('ZREM', T .. 'clients', client)
    if client == '' then
      tangles = true
      advance_all()
    else
      leave(client, {})
    end
  end
end

-- The calls that count in the longest window and those told again, in order of time.
local function recall(r, kind, told_again)
  local log, key, entries = r.s[kind], log_key(r, kind), {}
  if not log then return end
  local before = log.dropped
  local kept = call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for at = 1, #kept, 2 do
    local total = tonumber(kept[at + 1])
    entries[#entries + 1] = {tonumber(string.match(kept[at], '^%S+')), total - before}
    before = total
  end
  for _, each in ipairs(told_again) do entries[#entries + 1] = each end
  table.sort(entries, function(a, b) return a[1] < b[1] end)
  call('DEL', key)
  local open = log.open
  r.s[kind] = new_log()
  r.s[kind].open, r.passed, r.changed = open, false, true
  for _, rate in ipairs(rates_of(r, kind)) do r.s[kind].gone[rate[3]], r.s[kind].head[rate[3]] = 0, false end
  for _, each in ipairs(entries) do note(r, kind, math.min(each[1], NOW), each[2], 0) end
end

local function waiter_of(r, op, tokens, since)
  local class, priority = op[6], op[8]
  if op[4] ~= '' then
    local up = call('GET', T .. 'up:' .. op[4])
    local as, number = string.match(up or '', '^(%S+) (%S+)$')
    if number and tonumber(number) > priority then class, priority = as, tonumber(number) end
  end
  local holds = {}
  for _, held in ipairs(op[11]) do
    local p = load_permit(resource(held[2]), ME, held[1])
    if p then holds[#holds + 1] = {held[1], held[2], p.tokens} end
  end
  return {
    id = op[2], client = ME, run = op[4], step = op[5], tenant = op[7], class = class, priority = priority,
    since = since, tokens = tokens, queue = holds[1] and 'first' or 'rest', holds = holds, queues = op[12],
  }
end

-- An ask: {id, resource, run, step, class, tenant, priority, tokens, tokens at most, {permit, resource} kept, whether it
-- waits, seconds since it was asked}.
local function ask(op)
  local r = resource(op[3])
  local tokens, needs = need_of(r, op[9], op[10], op[5])
  if not tokens then return tell(ME, {'r', op[2], 'too-small', needs}) end
  local w = waiter_of(r, op, tokens, NOW - op[13])
  if fits(r, w) then return begin_permit(r, w) end
  pass(r)
  local limit = class_of(w.class).queue_limit
  if w.queue == 'rest' and limit and queued(r, 'rest', w.class) >= limit then return full(r, w, 'limit', limit) end
  if r.s.waits >= C.WAITERS_MAX then return full(r, w, 'total', C.WAITERS_MAX) end
  enqueue(r, w)
  asked[#asked + 1] = {r, w}
  r.changed, r.advances = true, true
end

local DO = {}

function DO.a(op) ask(op) end

-- An ask that may be known.
function DO.A(op)
  local r = resource(op[3])
  local p = load_permit(r, ME, op[2])
  if p then return tell(ME, {'g', p.id, p.tokens}) end
  local w = load_waiter(r, op[2])
  if not w then return ask(op) end
  pass(r)
  say_waits(r, w)
end

-- The request of a permit was written, some seconds ago.
function DO.w(op)
  local r = resource(op[3])
  local p = load_permit(r, ME, op[2])
  if not p or p.written then return end
  pass(r)
  write(r, p, NOW - op[4])
  save_permit(r, p)
end

-- An ask is given up, or a permit whose call was not made.
function DO.x(op)
  local r = resource(op[3])
  local p = load_permit(r, ME, op[2])
  if p then
    call('HDEL', permits_key(r, ME), op[2])
    if p.written then return ends(r, p, 'unused', '', nil, nil, NOW) end
    return unused(r, p)
  end
  local w = load_waiter(r, op[2])
  if w then dequeue(r, w) end
end

-- A permit ends: {id, resource, how, says, tokens, blocked, seconds since its request was written, if it was}.
function DO.d(op)
  local r = resource(op[3])
  local p = load_permit(r, ME, op[2])
  if p then
    call('HDEL', permits_key(r, ME), op[2])
    pass(r)
    if op[4] == 'unused' and not p.written and not op[8] then unused(r, p)
    else ends(r, p, op[4], op[5], op[6], op[7], NOW - (op[8] or 0)) end
  elseif op[7] then
    blocks(r, NOW + math.min(op[7], C.BLOCKED_S_MAX))
    r.changed, r.stops, r.advances = true, true, true
  end
end

-- A run counts as of a class.
function DO.l(op)
  local kept = call('GET', T .. 'up:' .. op[2])
  local known = tonumber(string.match(kept or '', ' (%S+)$'))
  if op[2] == '' or (known and known >= op[4]) then return end
  call('SET', T .. 'up:' .. op[2], op[3] .. ' ' .. text(op[4]), 'EX', C.KEPT_S)
  local members = call('SMEMBERS', T .. 'run:' .. op[2])
  table.sort(members)
  for _, member in ipairs(members) do
    local id, name = string.match(member, '^(%S+) (.*)$')
    local r = resource(name)
    local w = load_waiter(r, id)
    if w then
      lift(r, w, op[3], op[4])
      r.advances = true
    end
  end
end

-- The time has come at which something may be granted.
function DO.t(op) resource(op[2]).advances = true end

-- A process joins, with what it knew of the server's data before, if anything. Data that is new while the process knew
-- some, or while the server is new, or that is of another server may lack calls: nothing is granted until all processes
-- have told theirs. It hears for how long the data's server before had not heard of it: what it called since is lost.
local function join(op)
  local server = string.match(call('INFO', 'replication'), 'master_replid:(%w+)') or ''
  local kept = call('GET', T .. 'life')
  local lost = false
  if kept then
    life = cmsgpack.unpack(kept)
    if life[3] ~= server then
      life, lost = {life[1], life[2] + 1, server}, true
      call('ZUNIONSTORE', T .. 'heard', 1, T .. 'clients')
      call('EXPIRE', T .. 'heard', C.KEPT_S)
    end
  else
    local up_s = tonumber(string.match(call('INFO', 'server'), 'uptime_in_seconds:(%d+)') or 0)
    life, lost = {text(NOW), 1, server}, up_s < C.QUIET_S
  end
  lost = lost or (op[2] and op[2] ~= life[1])
  call('SET', T .. 'life', cmsgpack.pack(life))
  local until_ = op[3] ~= life[2] and call('ZSCORE', T .. 'heard', ME)
  life[4] = until_ and math.max(0, NOW + C.LEASE_S - tonumber(until_))
  if lost then be_quiet() end
end

-- A permit that its process holds: an ask, the tokens reserved for it, seconds since it was written.
function DO.h(op)
  local r = resource(op[3])
  local p = load_permit(r, ME, op[2])
  if not p then
    p = {id = op[2], client = ME, step = op[5], tokens = op[14], granted_at = NOW - op[13], written = false}
    pass(r)
    begins(r, p.tokens)
    r.changed = true
  end
  if op[15] then write(r, p, NOW - op[15]) end
  save_permit(r, p)
end

-- A call that has ended, and that the server has lost: {resource, seconds since it was written, tokens, seconds since
-- its end}.
function DO.c(op)
  local name = op[2]
  recalled[name] = recalled[name] or {c = {}, k = {}}
  table.insert(recalled[name].c, {NOW - op[3], 1})
  if op[4] > 0 then table.insert(recalled[name].k, {NOW - op[5], op[4]}) end
end

-- These are all permits and asks of the process.
function DO.k(op)
  local kept = {}
  for _, id in ipairs(op[2]) do kept[id] = true end
  leave(ME, kept)
end

-- The process leaves.
function DO.q()
  leave(ME, {})
  call('ZREM', T .. 'clients', ME)
end

local function level_of_resource(r)
  pass(r)
  local s, waiting, windows = r.s, {}, {}
  for _, queue in ipairs({'first', 'rest'}) do
    for _, level in pairs(s[queue]) do
      for class, count in pairs(level.classes) do
        local each = waiting[class] or {0, 0}
        waiting[class] = {each[1] + count, math.max(each[2], NOW - oldest(r, queue, class))}
      end
    end
  end
  for _, kind in ipairs({'c', 'k'}) do
    for _, rate in ipairs(rates_of(r, kind)) do
      windows[#windows + 1] = {scaled(r, rate[1], ALL), used_of(s[kind], rate)}
    end
  end
  return {
    r.name, s.held, r.spec.concurrency and concurrency_of(r, ALL) or false, windows, waiting, s.scale,
    s.blocked > NOW and s.blocked - NOW or false, s.refused_at and {NOW - s.refused_at, s.refused} or false, s.ended,
    s.used, rate_of(r) or false,
  }
end

function DO.v()
  levels = {}
  for name in pairs(SPECS) do levels[#levels + 1] = level_of_resource(resource(name)) end
end

-- Until nothing more follows from the operations.
local function settle()
  for name, each in pairs(recalled) do
    recall(resource(name), 'c', each.c)
    recall(resource(name), 'k', each.k)
  end
  for _, r in pairs(resources) do tangles = tangles or r.shrank end
  if tangles and not quiet then untangle() end
  for _, r in pairs(resources) do
    if r.stops then say_blocked(r) end
  end
  local all = {}  -- a grant may read more of them
  for _, r in pairs(resources) do all[#all + 1] = r end
  for _, r in ipairs(all) do
    if r.advances then advance(r) end
  end
  local circles
  for _, each in ipairs(asked) do
    local r, w = each[1], load_waiter(each[1], each[2].id)
    if w then
      pass(r)
      if not each[2].queues then
        dequeue(r, w)
        full(r, w, 'queues')
        circles = nil
      else
        if not quiet and may_be_stuck(r, w) then circles = circles or find_circles() end
        local keeper = circles and circles.waiting[w.id]
        if keeper and not keeper.goes_on then break_circle(circles, keeper) else say_waits(r, w) end
      end
    end
  end
end

-- The caller is to call again when something can be granted by then, unless another process is to do so earlier.
local function dues()
  local found, leaves = {}, #OPS > 0 and OPS[#OPS][1] == 'q'
  for name, r in pairs(resources) do
    local s = r.s
    if r.changed and s.due and s.waits > 0 and not leaves then
      if s.duty == ME or not s.duty_at or s.duty_at < NOW - C.DUTY_LATE_S or s.due < s.duty_at then
        s.duty, s.duty_at = ME, s.due
        found[#found + 1] = {name, math.max(0, s.due - NOW)}
      end
    elseif s.duty == ME then
      s.duty, s.duty_at = nil, nil
    end
  end
  return found
end

local function main(keys, arguments)
  call, T = redis.call, keys[1] .. 'lim:'
  local request = cmsgpack.unpack(arguments[1])
  ME, NOW, OPS = request[1], request[2], request[3]
  resources, answers, told, asked, recalled, life, levels, tangles = {}, {}, {}, {}, {}, false, false, false
  if NOW == 0 then
    local time = call('TIME')
    NOW = time[1] + time[2] / 1000000
  end
  local seats = call('ZMSCORE', T .. 'clients', ME, '')
  local joins = OPS[1] and OPS[1][1] == 'j'
  local held_until = tonumber(seats[1] or 0)
  if held_until < NOW and not joins then return cmsgpack.pack({0}) end
  quiet = seats[2] and tonumber(seats[2]) > NOW and tonumber(seats[2])
  if joins then join(OPS[1]) end
  if held_until < NOW + C.LEASE_S - C.LEASE_STEP_S then
    local last = call('ZRANGE', T .. 'clients', -1, -1, 'WITHSCORES')[2]
    call('ZADD', T .. 'clients', text(NOW + C.LEASE_S), ME)
    reap(last and tonumber(last) - C.LEASE_S or NOW)
  end
  for at = joins and 2 or 1, #OPS do DO[OPS[at][1]](OPS[at]) end
  settle()
  publish()
  local due = dues()
  save()
  return cmsgpack.pack({1, answers, due, levels, life})
end
