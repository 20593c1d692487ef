-- One batch of one writer, all or nothing: the only script that creates, writes and claims runs.
--
-- KEYS[1]  the key of this writer's last batch and its answers
-- ARGV[1]  the tag of all keys      ARGV[2]  the batch's number     ARGV[3]  seconds to remember it
-- ARGV[4]  the operations, in MessagePack: arrays that begin with their name; false for an abandoned one
-- ARGV[5]  {run: {token, events, entries}}: this writer's knowledge of the runs that it holds
-- ARGV[6]  bytes of events at which a run is full
--
-- Returns {whether a webhook became due, {an answer for each operation}, {the runs that answers name}, {full runs}}.
-- An answer is a number (of the written event, 0 for none, -1 if the lease is lost) or {code, …} with 0 done, 1 lost,
-- 2 refused, 9 failed. The writer repeats a batch with lost answers under its number; the script then returns the
-- remembered answers, so the batch is applied once.

local OK, LOST, REFUSED, FAILED = 0, 1, 2, 9
local EVENT_BYTES_MAX, full = tonumber(ARGV[6]), {}
local UNPARKED_MAX = 1000

-- Turns at steps of assigned runs.

local function turn_of(id, step)
  local kept = call('HGET', P .. 't:' .. id, step)
  if not kept then return 0, false end
  local number, finished = string.match(kept, '^(%d+)(!?)$')
  return tonumber(number), finished == '!'
end

local told = cmsgpack.unpack(ARGV[5])

-- Whether the server still has every acknowledged write of a run. A server that restarts, or is replaced, may lack the
-- last ones. The run's owner then knows events and results that are lost, so the run is queued: its next owner starts
-- from the stored state.
local function is_whole(run)
  local known = told[run.id]
  if not known or known[1] ~= run.token then return true end
  told[run.id] = nil
  if events_of(run) >= known[2] and entries_of(run) >= known[3] then return true end
  enqueue(run)
  return false
end

-- The run if this lease is current and has the newest turn at its step: `holds` and `has_turn` of core/ownership.py.
local function held(id, owner, token, step, turn)
  local run = load(id)
  if not run or run.owner ~= owner or run.token ~= token or not is_whole(run) then return nil end
  if step ~= '' and turn_of(id, step) > turn then return nil end
  return run
end

local function add_event(run, kind, head, tail)
  local number = events_of(run) + 1
  local data = head .. string.format('%d', number) .. tail
  run.events = number
  run.new_events[#run.new_events + 1] = data
  set(run, 'event_bytes', (run.event_bytes or 0) + #data)
  if run.event_bytes >= EVENT_BYTES_MAX then full[run.id] = true end
  announce(run, kind, number)
  return number
end

local function count_open(run, by)
  if call('HINCRBY', P .. 'open', run.tenant, by) <= 0 then call('HDEL', P .. 'open', run.tenant) end
  if run.api_key then call(by > 0 and 'SADD' or 'SREM', P .. 'ok:' .. run.api_key, run.id) end
end

local function shown(run) return {OK, 'run', run.id} end

local function claimed(run, fresh)
  return {run.id, run.token, fresh and 1 or 0, events_of(run), entries_of(run)}
end

-- The operations, by name; each validates before it changes anything. An operation on a single run restates a rule of
-- core/ownership.py, which it names; tests/stores/test_rules.py compares the two.

local operations = {}

function operations.turn() return {OK} end

function operations.create(id, made, owner, head, tail, webhook, key, entries, signals, signal_bytes, retry_of)
  if key then
    local name = P .. 'i:' .. made.tenant .. '\0' .. key.key
    local kept = call('GET', name)
    if kept then
      local before = cmsgpack.unpack(kept)
      if before[3] > key.at then
        if before[1] ~= key.fingerprint then return {REFUSED} end
        return {OK, before[2], 0}
      end
    end
    call('SET', name, cmsgpack.pack({key.fingerprint, id, key.expires_at}), 'EX', key.ttl_s)
  end
  if load(id) then return {OK, id, 0} end
  local run = {id = id, changed = {}, events = 0, new_events = {}, entries = #entries, new_entries = entries}
  runs[id] = run
  for name, value in pairs(made) do set(run, name, value) end
  set(run, 'owner', owner or nil)
  set(run, 'token', 1)
  for _, index in ipairs({'ix', 'ix:t:' .. run.tenant, run.session and 'ix:s:' .. run.session}) do
    call('ZADD', P .. index, 0, id)
  end
  if run.api_key then
    call('ZADD', P .. 'ix:k:' .. run.api_key, 0, id)
    call('EXPIRE', P .. 'ix:k:' .. run.api_key, 2 * WINDOW_S_MAX)
  end
  count_open(run, 1)
  if webhook then
    set(run, 'announces', webhook.announces)
    call('HSET', P .. 'w:' .. id, 'host', webhook.host, 'token', 0, 'latest', 0)
  end
  for _, encoded in ipairs(signals or {}) do call('RPUSH', P .. 's:' .. id, encoded) end
  if signal_bytes then set(run, 'signal_bytes', signal_bytes) end
  local retried = retry_of and P .. 'r:' .. retry_of
  if retried and call('EXISTS', retried) == 1 then
    call('HSET', retried, 'retried', (call('HGET', retried, 'retried') or '') .. ' ' .. id)
  end
  add_event(run, 'run.accepted', head, tail)
  attach(run)
  return {OK, '', 1}
end

-- Undo a creation whose answer came too late for its caller: no client can know the run yet.
function operations.uncreate(id, tenant, key, retry_of)
  local run = load(id)
  if not run or run.token ~= 1 or OUTCOMES[run.status] then return {OK} end
  detach(run)
  drop_webhook(id)
  unindex(id, run.tenant, run.session, run.api_key)
  count_open(run, -1)
  for _, kind in ipairs({'r:', 'e:', 'j:', 's:', 'k:', 't:'}) do call('DEL', P .. kind .. id) end
  local name = key and P .. 'i:' .. tenant .. '\0' .. key
  local kept = name and call('GET', name)
  if kept and cmsgpack.unpack(kept)[2] == id then call('DEL', name) end
  local retried = retry_of and call('HGET', P .. 'r:' .. retry_of, 'retried')
  if retried then call('HSET', P .. 'r:' .. retry_of, 'retried', (string.gsub(retried, ' ' .. id, ''))) end
  runs[id], touched[id] = false, nil
  return {OK}
end

-- `may_append`.
function operations.append(id, owner, token, step, turn, entry, kind, head, tail, wait, key, begins)
  local run = held(id, owner, token, step, turn)
  if not run then return -1 end
  if step ~= '' then
    local _, finished = turn_of(id, step)
    if finished then return -1 end
    if entry then call('HSET', P .. 't:' .. id, step, string.format('%d!', turn)) end
  end
  if entry then
    run.entries = entries_of(run) + 1
    run.new_entries[#run.new_entries + 1] = entry
    touched[id] = run
  end
  if wait then note_wait(run, wait, key, begins) end
  return kind and add_event(run, kind, head, tail) or 0
end

-- `finish`.
function operations.finish(id, owner, token, step, turn, ended, large, kind, head, tail, ttl_s, kept_s)
  local run = held(id, owner, token, '', 0)
  if not run then return -1 end
  local number = add_event(run, kind, head, tail)
  detach(run)
  for name, value in pairs(ended) do set(run, name, value) end
  end_waits(run)
  set(run, 'owner', nil)
  if large then
    call('SET', P .. 'b:' .. id, large)
    set(run, 'large', 1)
  end
  count_open(run, -1)
  call('ZREM', P .. 'unheard', id)
  local waits = call('EXISTS', P .. 'w:' .. id) == 1 and kept_s or 0
  call('ZADD', P .. 'purge', text(run.finished + run.retention + waits), card(run))
  run.ttl_s = math.ceil(run.retention + waits + ttl_s)
  return number
end

function operations.sync(id, owner, token, step, turn)
  if id and not held(id, owner, token, step, turn) then return {LOST} end
  return {OK}
end

function operations.survived(id, owner, token)
  local run = held(id, owner, token, '', 0)
  if run and (run.deaths or 0) > 0 then
    detach(run)
    set(run, 'deaths', 0)
    for _, name in ipairs({'deaths_alone', 'deaths_silent', 'company'}) do set(run, name, nil) end
    attach(run)
  end
  return {OK}
end

function operations.adopt(id, owner, token, demotion)
  local run = held(id, owner, token, '', 0)
  if not run then return {LOST} end
  set(run, 'path', 'deep')
  set(run, 'demotion', demotion)
  return {OK}
end

function operations.claim(owner, limit, pipelines, now, classes)
  for _, id in ipairs(call('ZRANGE', P .. 'parked', '-inf', text(now), 'BYSCORE', 'LIMIT', 0, UNPARKED_MAX)) do
    local run = load(id)
    if run then enqueue(run) else call('ZREM', P .. 'parked', id) end
  end
  local claims = {}
  local ids, seen = chosen(owner, limit, pipelines, classes)
  shortened = {}
  for place, id in ipairs(ids) do
    local run = load(id)
    claims[place] = claimed(run, take(run, owner, now))
  end
  place_shortened()
  charge(seen, pipelines)
  return {OK, 'claims', claims}
end

-- `claim`, if `is_free`.
function operations.claim_one(owner, id, now)
  local run = load(id)
  local lets_pass = run and run.owner == ENGINE and run.deadline and run.deadline <= now - GRACE_S
  if not run or not (run.status == 'queued' or run.parked or lets_pass) then return {OK, 'claims', {}} end
  return {OK, 'claims', {claimed(run, take(run, owner, now))}}
end

-- `assign`.
function operations.entrust(id, now)
  local run = load(id)
  if not run or OUTCOMES[run.status] then return {OK, 'claims', {}} end
  if run.owner == ENGINE then return {OK, 'claims', {claimed(run, false)}} end
  take(run, ENGINE, now)
  return {OK, 'claims', {claimed(run, true)}}
end

-- `release`, or `park`.
function operations.release(id, owner, token, parked_until, seen)
  local run = held(id, owner, token, '', 0)
  if not run then return {LOST} end
  local left_by = parked_until and 'wait' or 'exit'
  if not parked_until or run.cancel or call('LLEN', P .. 's:' .. id) ~= seen then
    enqueue(run, left_by)
    return {OK}
  end
  detach(run)
  set(run, 'left_by', left_by)
  set(run, 'owner', nil)
  set(run, 'status', 'running')
  set(run, 'parked', math.min(parked_until, run.deadline or parked_until))
  attach(run)
  return {OK}
end

-- Add a notice for a run's engine: the part of `signal` and `cancel` that concerns an engine.
local function note_unheard(run)
  if run.owner == ENGINE and not OUTCOMES[run.status] then call('ZINCRBY', P .. 'unheard', 1, run.id) end
end

-- `signal`; Python turns a refusal into the error of that rule or of `require_same`.
function operations.signal(id, encoded, size, key, signals_max, bytes_max)
  local run = load(id)
  if not run then return {OK} end
  local place = key and call('HGET', P .. 'k:' .. id, key)
  if place then
    local kept = call('LINDEX', P .. 's:' .. id, place)
    if kept == encoded then return shown(run) end
    return {REFUSED, 'key', kept}
  end
  local count = call('LLEN', P .. 's:' .. id)
  size = (run.signal_bytes or 0) + size
  if OUTCOMES[run.status] or count >= signals_max or size > bytes_max then
    return {REFUSED, 'run', id, count, size}
  end
  call('RPUSH', P .. 's:' .. id, encoded)
  if key then call('HSET', P .. 'k:' .. id, key, count) end
  set(run, 'signal_bytes', size)
  note_unheard(run)
  if run.parked then enqueue(run) end
  return shown(run)
end

-- `cancel`.
function operations.cancel(id)
  local run = load(id)
  if not run then return {OK} end
  if not OUTCOMES[run.status] then
    detach(run)
    set(run, 'cancel', 1)
    attach(run)
    note_unheard(run)
    if run.parked then enqueue(run) end
  end
  return shown(run)
end

-- `take_turn`.
function operations.take_step(id, owner, token, held_step, held_turn, step)
  local run = held(id, owner, token, held_step, held_turn)
  if not run then return {LOST} end
  local turn, finished = turn_of(id, step)
  if not finished then
    turn = math.max(turn, FIRST_TURN) + 1
    call('HSET', P .. 't:' .. id, step, string.format('%d', turn))
  end
  return {OK, turn, finished and 1 or 0}
end

-- `acknowledge`.
function operations.heard(id)
  local left = call('ZSCORE', P .. 'unheard', id)
  if left and tonumber(left) > 1 then
    call('ZINCRBY', P .. 'unheard', -1, id)
  else
    call('ZREM', P .. 'unheard', id)
  end
  return {OK}
end

function operations.describe(owner, about)
  if call('HEXISTS', P .. 'owners', owner) == 1 then call('HSET', P .. 'about', owner, about) end
  return {OK}
end

function operations.register(owner, encoded, expires_at, about)
  call('HSET', P .. 'owners', owner, encoded)
  if about then call('HSET', P .. 'about', owner, about) end
  call('ZADD', P .. 'owners:until', text(expires_at), owner)
  return {OK}
end

function operations.retire(owner)
  return {OK, forget(owner, true, 'death')}
end

-- Due webhooks: at most `room.total`, and for each host no more than its room; the most urgent first.

local function due_entries(room, now)
  local due = {}
  for _, host in ipairs(call('ZRANGE', P .. 'hosts', '-inf', text(now), 'BYSCORE', 'LIMIT', 0, room.hosts_max)) do
    local left = math.min(room.per_host - (room.busy[host] or 0), room.total)
    if left > 0 then
      local part = call('ZRANGE', P .. 'wd:' .. host, '-inf', text(now), 'BYSCORE', 'LIMIT', 0, left, 'WITHSCORES')
      for place = 1, #part, 2 do due[#due + 1] = {part[place], host, tonumber(part[place + 1])} end
    end
  end
  table.sort(due, function(a, b)
    if a[3] ~= b[3] then return a[3] < b[3] end
    return a[1] < b[1]
  end)
  return due
end

function operations.claim_webhooks(room, now, until_at)
  local taken = {}
  for place, each in ipairs(due_entries(room, now)) do
    if place > room.total then break end
    local id, host = each[1], each[2]
    local key = P .. 'w:' .. id
    if call('EXISTS', key) == 1 then
      local token = call('HINCRBY', key, 'token', 1)
      set_due(id, host, until_at)
      local kept = call('HMGET', key, 'latest', 'cursor', 'attempts', 'failing_since')
      taken[#taken + 1] = {id, host, token, kept[1], kept[2] or '0', kept[3] or '0', kept[4] or ''}
    else
      set_due(id, host, nil)
    end
  end
  return {OK, taken}
end

function operations.settle(id, token, cursor, attempts, failing_since, due_at, done)
  local key = P .. 'w:' .. id
  local kept = call('HMGET', key, 'token', 'host', 'latest')
  if tonumber(kept[1] or -1) ~= token then return {OK, 0} end
  if done then
    drop_webhook(id)
    local run = load(id)
    if run then
      set(run, 'announces', nil)
      -- The run's data stayed only for this entry.
      if run.finished and not run.purged then
        call('ZADD', P .. 'purge', text(run.finished + run.retention), card(run))
      end
    end
    return {OK, 1}
  end
  call('HSET', key, 'cursor', cursor, 'attempts', attempts, 'failing_since', text(failing_since or ''))
  if not due_at and tonumber(kept[3]) > cursor then due_at = 0 end
  set_due(id, kept[2], due_at or nil)
  return {OK, 1}
end

-- Statistics: a hash of counts for each cell's number and tenant.
function operations.cells(cells)
  for _, each in ipairs(cells) do
    local key, ttl_s, field, counts = P .. 'cells:' .. each[1], each[2], each[3], each[4]
    for name, count in pairs(counts) do call('HINCRBY', key, field .. name, count) end
    call('EXPIRE', key, ttl_s)
  end
  return {OK}
end

-- What is learned of runs; each change has a number. `weights` is a map, and an ended turn is {session, seconds}.
local function overflow(order, values, kept)
  local over = call('ZCARD', order) - kept
  if over <= 0 then return end
  for _, member in ipairs(call('ZRANGE', order, 0, over - 1)) do call('HDEL', values, member) end
  call('ZREMRANGEBYRANK', order, 0, over - 1)
end

function operations.learn(cells, turns, cells_kept, sessions_kept, last_kept, ttl_s)
  local number = tonumber(call('GET', P .. 'learned') or 0)
  local groups = {}
  for _, cell in ipairs(cells) do
    local group, member = cell[1], cell[2]
    local order, values = P .. 'bo:' .. group, P .. 'bw:' .. group
    local before = call('HGET', values, member)
    local weights = before and cmsgpack.unpack(before) or {}
    for bucket, weight in pairs(cell[3]) do weights[bucket] = (weights[bucket] or 0) + weight end
    number = number + 1
    call('HSET', values, member, cmsgpack.pack(weights))
    call('ZADD', order, number, member)
    groups[group] = true
  end
  for _, turn in ipairs(turns) do
    local session = turn[1]
    local before = call('HGET', P .. 'sw', session)
    local known = before and cmsgpack.unpack(before) or {0, {}}
    known[1] = known[1] + 1
    table.insert(known[2], 1, turn[2])
    known[2][last_kept + 1] = nil
    number = number + 1
    call('HSET', P .. 'sw', session, cmsgpack.pack(known))
    call('ZADD', P .. 'so', number, session)
  end
  call('SET', P .. 'learned', number)
  for group in pairs(groups) do
    call('SADD', P .. 'beliefs', group)
    overflow(P .. 'bo:' .. group, P .. 'bw:' .. group, cells_kept)
    call('EXPIRE', P .. 'bo:' .. group, ttl_s)
    call('EXPIRE', P .. 'bw:' .. group, ttl_s)
  end
  if #turns > 0 then
    overflow(P .. 'so', P .. 'sw', sessions_kept)
    call('EXPIRE', P .. 'so', ttl_s)
    call('EXPIRE', P .. 'sw', ttl_s)
  end
  return {OK}
end

function operations.forget(group, blocks)
  local order, values = P .. 'bo:' .. group, P .. 'bw:' .. group
  local gone = {}
  for _, block in ipairs(blocks) do gone[tostring(block)] = true end
  for _, member in ipairs(call('ZRANGE', order, 0, -1)) do
    if gone[string.match(member, '^[^%z]*')] then
      call('ZREM', order, member)
      call('HDEL', values, member)
    end
  end
  return {OK}
end

-- The current records of the runs that answers name: remembered answers hold only the ids.
local function named(answers)
  local seen, found = {}, {}
  local function show(id)
    if not seen[id] then found[#found + 1] = read_record(id) end
    seen[id] = true
  end
  for _, answer in ipairs(answers) do
    if type(answer) == 'table' and answer[2] == 'run' then
      show(answer[3])
    elseif type(answer) == 'table' and answer[2] == 'claims' then
      for _, claim in ipairs(answer[3]) do show(claim[1]) end
    end
  end
  return found
end

-- An operation that fails, because a key has an unexpected type, takes its run from its owner: no write may follow a
-- gap.
local function failed(operation, problem)
  if shortened then pcall(place_shortened) end
  if operation[1] == 'append' or operation[1] == 'finish' then
    pcall(function() enqueue(load(operation[2])) end)
  end
  return {FAILED, type(problem) == 'table' and problem.err or tostring(problem)}
end

local function applied(batch)
  local answers = {}
  for place, operation in ipairs(batch) do
    if operation then
      local done, answer = pcall(operations[operation[1]], unpack(operation, 2, table.maxn(operation)))
      answers[place] = done and answer or failed(operation, answer)
    else
      answers[place] = {OK}
    end
  end
  flush()
  local filled = {}
  for id in pairs(full) do filled[#filled + 1] = id end
  return {announced, answers, {}, filled}
end

local number, kept, reply = tonumber(ARGV[2]), call('GET', KEYS[1]), nil
local last = kept and cmsgpack.unpack(kept)
if last and last[1] == number then
  reply = last[2]
  call('EXPIRE', KEYS[1], ARGV[3])  -- a write after the batch's: a caller that waits for the disk waits for both
elseif last and last[1] > number then
  return redis.error_reply('SUPERSEDED batch ' .. ARGV[2] .. ' of this writer came after a later one')
else
  reply = applied(cmsgpack.unpack(ARGV[4]))
  call('SET', KEYS[1], cmsgpack.pack({number, reply}), 'EX', ARGV[3])
end
reply[3] = named(reply[2])
return reply
