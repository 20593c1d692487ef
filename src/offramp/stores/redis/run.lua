-- Shared by every script that changes runs: reading a run, its keys, and its changes of owner.
--
-- ARGV[1] is the tag that begins every key. Keys, each after the tag:
--   r:ID    hash    the run: see FIELDS and rows.py; without TTL until it has ended
--   e:ID    list    its events, encoded; an event's place in the list, from 1, is its number
--   j:ID    list    its journal          s:ID  list  its signals        k:ID  hash  their keys, with the signal's place
--   t:ID    hash    turns at its steps   b:ID  string  a result that is too large for listings
--   w:ID    hash    its webhook: a cursor over its events, see outbox.lua
--   q:PIPELINE  zset  queued runs by minus priority, then id;  qs:PIPELINE  those suspected of deaths;  q1:PIPELINE  those
--           of q: with a death.  Those of q: without are also in lines, see claim.lua; LINE is "PRIORITY CLASS TENANT":
--   l:PIPELINE LINE  zset  runs by id    lv:PIPELINE  hash  priority: number of runs in its lines
--   n:PIPELINE PRIORITY  zset  "FIRST LINE", the first run of each line, by tag;  nc:PIPELINE CLASS  zset  the same by run
--   tags:PIPELINE  hash  "PRIORITY TENANT": tag    levels  hash  priority: greatest tag    earned  hash  class: credit
--   mends   hash    pipeline: how far its lines have been compared with its queue, see claim.lua
--   queued  set     all queued runs      parked  zset  parked runs by the time at which they are queued
--   assigned  set   runs assigned to an engine
--   ws:ID, wt:ID  set  its open waits for signals, and for times
--   ix:w, ix:w:TENANT  zset  ids of waiting runs, newest last   waits  hash  "MASK PIPELINE": number of waiting runs
--   waiting, waiting:class  hash  tenant, or class: number of its queued runs; see queued.lua
--   o:OWNER set     its runs    c:OWNER  set  those with a request to cancel    x:OWNER  set  those with deaths
--   owners, about  hash  the registration of a process, and what it says about itself;  owners:until  zset  their leases
--   free    zset    runs with a deadline and no owner, by deadline; assigned ones by deadline and the engine's grace
--   open    hash    tenant: number of its unfinished runs
--   ix, ix:t:TENANT, ix:s:SESSION, ix:k:API-KEY  zset  ids, newest last
--   ok:API-KEY  set  unfinished runs of a key with limits; see key.lua
--   unheard zset    assigned runs by the number of their engine's pending notices
--   duty:DUTY  hash  the process that performs a duty for all, and until when, see duty.lua
--   cells:WIDTH:NUMBER:TENANT  hash  counts of ended runs, by pipeline, class and name
--   beliefs set     pipelines and classes with beliefs;  learned  string  the number of the last change
--   bo:PIPELINE CLASS, bw:PIPELINE CLASS  zset, hash  cells of beliefs by their last change, and their weights
--   so, sw  zset, hash  sessions by their last change, and their turns
--   purge   zset    ended runs by the time of their purge;  tomb  zset  purged ones by the time they are forgotten
--
-- Invariants: a run is in q: or qs: and `queued` exactly while its status is queued; in o:OWNER exactly while owned by
-- a process; in `parked` exactly while it runs without an owner. Only `detach` and `attach` maintain this.

local P = ARGV[1]
local call = redis.call
local FIELDS = {'status', 'owner', 'token', 'tenant', 'pipeline', 'session', 'priority', 'deadline', 'retention',
  'started', 'finished', 'cancel', 'deaths', 'parked', 'path', 'announces', 'signal_bytes', 'event_bytes', 'purged',
  'deaths_alone', 'deaths_silent', 'company', 'left_by', 'waits', 'api_key'}
local NUMBERS = {token = true, priority = true, deadline = true, retention = true, started = true, finished = true,
  deaths = true, parked = true, signal_bytes = true, event_bytes = true, deaths_alone = true, deaths_silent = true,
  company = true, waits = true}
local OUTCOMES = {completed = true, failed = true, cancelled = true, expired = true}
local ARGS_MAX = 1000

local runs = {}
local touched = {}

-- Numbers as text that parses to the same number.
local function text(value)
  if type(value) == 'number' then return string.format('%.17g', value) end
  return value
end

-- The run, with this script's changes so far; nil if it is unknown.
local function load(id)
  if runs[id] ~= nil then return runs[id] or nil end
  local got = call('HMGET', P .. 'r:' .. id, unpack(FIELDS))
  if not got[1] then
    runs[id] = false
    return nil
  end
  local run = {id = id, changed = {}}
  for place, name in ipairs(FIELDS) do
    run[name] = got[place] or nil
    if NUMBERS[name] and run[name] then run[name] = tonumber(run[name]) end
  end
  runs[id] = run
  return run
end

-- Set a field, nil to remove it; `flush` writes it.
local function set(run, name, value)
  run[name] = value
  if value == nil then value = false end
  run.changed[name] = value
  touched[run.id] = run
end

local function events_of(run)
  if not run.events then run.events, run.new_events = call('LLEN', P .. 'e:' .. run.id), {} end
  return run.events
end

local function entries_of(run)
  if not run.entries then run.entries, run.new_entries = call('LLEN', P .. 'j:' .. run.id), {} end
  return run.entries
end

local function push(key, values)
  for first = 1, #values, ARGS_MAX do
    call('RPUSH', key, unpack(values, first, math.min(first + ARGS_MAX - 1, #values)))
  end
end

-- Write all changes of `set` and the appends. The keys of a run that has ended expire after `run.ttl_s`.
local function flush()
  for id, run in pairs(touched) do
    local sets, removes = {}, {}
    for name, value in pairs(run.changed) do
      if value == false then
        removes[#removes + 1] = name
      else
        sets[#sets + 1] = name
        sets[#sets + 1] = text(value)
      end
    end
    if #sets > 0 then call('HSET', P .. 'r:' .. id, unpack(sets)) end
    if #removes > 0 then call('HDEL', P .. 'r:' .. id, unpack(removes)) end
    if run.new_events then push(P .. 'e:' .. id, run.new_events) end
    if run.new_entries then push(P .. 'j:' .. id, run.new_entries) end
    if run.ttl_s then
      for _, kind in ipairs({'e:', 'j:', 's:', 'k:', 't:', 'b:', 'w:'}) do
        call('EXPIRE', P .. kind .. id, run.ttl_s)
      end
      call('EXPIRE', P .. 'r:' .. id, run.ttl_s)
    end
  end
  runs, touched = {}, {}
end

-- Set the mask of the kinds of a run's open waits, 0 for none.
local function set_waits(run, mask)
  local before = run.waits or 0
  if mask == before then return end
  for _, index in ipairs({'ix:w', 'ix:w:' .. run.tenant}) do
    if mask > 0 then call('ZADD', P .. index, 0, run.id) else call('ZREM', P .. index, run.id) end
  end
  for _, change in ipairs({{before, -1}, {mask, 1}}) do
    local field = string.format('%d ', change[1]) .. run.pipeline
    if change[1] > 0 and call('HINCRBY', P .. 'waits', field, change[2]) <= 0 then call('HDEL', P .. 'waits', field) end
  end
  set(run, 'waits', mask > 0 and mask or nil)
end

-- Note the start or end of a wait; `kind` is its bit in the mask.
local function note_wait(run, kind, key, begins)
  call(begins and 'SADD' or 'SREM', P .. (kind == 1 and 'ws:' or 'wt:') .. run.id, key)
  set_waits(run, call('EXISTS', P .. 'ws:' .. run.id) + 2 * call('EXISTS', P .. 'wt:' .. run.id))
end

-- A run that has ended waits for nothing.
local function end_waits(run)
  if run.waits then
    call('DEL', P .. 'ws:' .. run.id, P .. 'wt:' .. run.id)
    set_waits(run, 0)
  end
end

local function queue_of(run)
  return P .. ((run.deaths or 0) >= SUSPECT and 'qs:' or 'q:') .. run.pipeline
end

-- Lines of queued runs without deaths: `QueuedLine` of core/claims.py.

local function class_of(run)
  if not run.class then
    local kept = run.record or call('HGET', P .. 'r:' .. run.id, 'record')
    run.class = kept and cmsgpack.unpack(kept)[2] or 'default'
  end
  return run.class
end

local function line_of(run) return string.format('%d ', run.priority) .. class_of(run) .. ' ' .. run.tenant end

local function parts_of(line) return string.match(line, '^(%S+) (%S+) (.*)$') end

-- Put a line where its first run and its tag belong; `before` was its first run, nil if it was empty.
local function place_line(pipeline, line, before, first)
  local priority, class, tenant = parts_of(line)
  local by_tag, by_run = P .. 'n:' .. pipeline .. ' ' .. priority, P .. 'nc:' .. pipeline .. ' ' .. class
  if before and before ~= first then
    call('ZREM', by_tag, before .. ' ' .. line)
    call('ZREM', by_run, before .. ' ' .. line)
  end
  if first then
    call('ZADD', by_tag, call('HGET', P .. 'tags:' .. pipeline, priority .. ' ' .. tenant), first .. ' ' .. line)
    call('ZADD', by_run, 0, first .. ' ' .. line)
  end
end

local function join_line(run)
  local priority = string.format('%d', run.priority)
  local line = line_of(run)
  local key = P .. 'l:' .. run.pipeline .. ' ' .. line
  local before = call('ZRANGE', key, 0, 0)[1]
  call('ZADD', key, 0, run.id)
  call('HINCRBY', P .. 'lv:' .. run.pipeline, priority, 1)
  if not before then
    local tags, field = P .. 'tags:' .. run.pipeline, priority .. ' ' .. run.tenant
    local least = call('ZRANGE', P .. 'n:' .. run.pipeline .. ' ' .. priority, 0, 0, 'WITHSCORES')[2]
    least = tonumber(least or call('HGET', P .. 'levels', priority) or 0)
    call('HSET', tags, field, text(math.max(least, tonumber(call('HGET', tags, field) or 0))))
  end
  if not before or run.id < before then place_line(run.pipeline, line, before, run.id) end
end

-- Lines that a claim takes runs from, by key: {pipeline, line, first run before}. They are placed once, at its end.
local shortened = nil

local function leave_line(run)
  local priority = string.format('%d', run.priority)
  local line = line_of(run)
  local key = P .. 'l:' .. run.pipeline .. ' ' .. line
  local noted = shortened and shortened[key]
  local before = not noted and call('ZRANGE', key, 0, 0)[1]
  if call('ZREM', key, run.id) == 0 then return end
  local levels = P .. 'lv:' .. run.pipeline
  if call('HINCRBY', levels, priority, -1) <= 0 then call('HDEL', levels, priority) end
  if shortened then
    shortened[key] = noted or {run.pipeline, line, before}
  elseif before == run.id then
    place_line(run.pipeline, line, before, call('ZRANGE', key, 0, 0)[1])
  end
end

local function place_shortened()
  for key, each in pairs(shortened) do place_line(each[1], each[2], each[3], call('ZRANGE', key, 0, 0)[1]) end
  shortened = nil
end

local function count_queued(counts, name, by)
  if call('HINCRBY', P .. counts, name, by) == 0 then call('HDEL', P .. counts, name) end
end

-- Take a run out of the keys of its state, before that changes.
local function detach(run)
  if run.status == 'queued' then
    call('ZREM', queue_of(run), run.id)
    if (run.deaths or 0) == 0 then leave_line(run) else call('ZREM', P .. 'q1:' .. run.pipeline, run.id) end
    call('SREM', P .. 'queued', run.id)
    count_queued('waiting', run.tenant, -1)
    count_queued('waiting:class', class_of(run), -1)
  end
  if run.owner and run.owner ~= ENGINE then
    call('SREM', P .. 'o:' .. run.owner, run.id)
    if run.cancel then call('SREM', P .. 'c:' .. run.owner, run.id) end
    if (run.deaths or 0) > 0 then call('SREM', P .. 'x:' .. run.owner, run.id) end
  end
  if run.owner == ENGINE then call('SREM', P .. 'assigned', run.id) end
  if run.parked then call('ZREM', P .. 'parked', run.id) end
  if run.deadline then call('ZREM', P .. 'free', run.id) end
end

-- Put a run into the keys of its new state.
local function attach(run)
  if OUTCOMES[run.status] then return end
  if run.status == 'queued' then
    call('ZADD', queue_of(run), text(-run.priority), run.id)
    if (run.deaths or 0) == 0 then join_line(run) end
    if run.deaths == 1 then call('ZADD', P .. 'q1:' .. run.pipeline, text(-run.priority), run.id) end
    call('SADD', P .. 'queued', run.id)
    count_queued('waiting', run.tenant, 1)
    count_queued('waiting:class', class_of(run), 1)
  end
  if run.owner and run.owner ~= ENGINE then
    call('SADD', P .. 'o:' .. run.owner, run.id)
    if run.cancel then call('SADD', P .. 'c:' .. run.owner, run.id) end
    if (run.deaths or 0) > 0 then call('SADD', P .. 'x:' .. run.owner, run.id) end
    return
  end
  if run.owner == ENGINE then call('SADD', P .. 'assigned', run.id) end
  if run.parked then call('ZADD', P .. 'parked', text(run.parked), run.id) end
  if run.deadline then
    call('ZADD', P .. 'free', text(run.deadline + (run.owner and GRACE_S or 0)), run.id)
  end
end

-- Count a death of a run, together with `among` runs: `after_death` of core/claims.py.
local function count_death(run, among, silent)
  set(run, 'deaths', (run.deaths or 0) + 1)
  if among == 1 then set(run, 'deaths_alone', (run.deaths_alone or 0) + 1) end
  if silent then set(run, 'deaths_silent', (run.deaths_silent or 0) + 1) end
  set(run, 'company', run.deaths >= SUSPECT and math.max(1, math.floor(among / 2)) or UNBOUNDED)
end

-- Queue a run for any owner: `release` of core/ownership.py with `left_by`, `unpark` without. With `among`, its process
-- died with that many runs.
local function enqueue(run, left_by, among)
  detach(run)
  if left_by then set(run, 'left_by', left_by) end
  set(run, 'status', 'queued')
  set(run, 'owner', nil)
  set(run, 'parked', nil)
  if among then count_death(run, among, left_by == 'silence') end
  attach(run)
end

-- Give a run to an owner: the move of `claim` and `assign` of core/ownership.py. The token grows with the time of day:
-- even if the server loses its last writes, no lost claim shares its token with a later one.
local function take(run, owner, now)
  detach(run)
  local fresh = not run.started
  set(run, 'status', 'running')
  set(run, 'path', 'deep')
  set(run, 'owner', owner)
  set(run, 'parked', nil)
  set(run, 'token', math.max(run.token + 1, math.floor(now * 1000)))
  if fresh or run.started == 0 then set(run, 'started', now) end
  attach(run)
  return fresh
end

-- Remove an owner, which has died unless it announced its leave, and queue its runs. Returns their number.
local function forget(owner, blames, left_by)
  local known = call('HGET', P .. 'owners', owner)
  if known and cmsgpack.unpack(known)[6] then left_by = 'exit' end
  local died = blames and left_by ~= 'exit'
  call('HDEL', P .. 'owners', owner)
  call('HDEL', P .. 'about', owner)
  call('ZREM', P .. 'owners:until', owner)
  local held, suspected = {}, 0
  for _, id in ipairs(call('SMEMBERS', P .. 'o:' .. owner)) do
    local run = load(id)
    if run then held[#held + 1] = run else call('SREM', P .. 'o:' .. owner, id) end
    if run and (run.deaths or 0) > 0 then suspected = suspected + 1 end
  end
  for _, run in ipairs(held) do
    enqueue(run, left_by, died and ((run.deaths or 0) >= SUSPECT and suspected or #held))
  end
  return #held
end

-- A run's member in the purge sets: enough to unindex it after its hash has expired.
local function card(run)
  return cmsgpack.pack({run.id, run.tenant, run.session or false, run.api_key})
end

local function unindex(id, tenant, session, api_key)
  call('ZREM', P .. 'ix', id)
  call('ZREM', P .. 'ix:t:' .. tenant, id)
  if session then call('ZREM', P .. 'ix:s:' .. session, id) end
  if api_key then call('ZREM', P .. 'ix:k:' .. api_key, id) end
end
