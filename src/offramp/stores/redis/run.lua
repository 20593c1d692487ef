-- What every script shares that changes runs: how a run is read, where it is kept, and how it changes hands.
--
-- ARGV[1] is the tag that every key begins with. Keys, each behind the tag:
--   r:ID    hash    the run: see FIELDS and rows.py; without TTL until it has ended
--   e:ID    list    its events, encoded; the place in the list, from 1, is the event's number
--   j:ID    list    its journal          s:ID  list  its signals        k:ID  hash  their keys: signal's place
--   t:ID    hash    turns at its steps   b:ID  string  a result that is too large for listings
--   w:ID    hash    its webhook: a cursor over its events, see outbox.lua
--   q:PIPELINE  zset  queued runs by minus priority, then id;  qs:PIPELINE  those suspected of deaths
--   queued  set     all of them          parked  zset  by when they are queued
--   waiting hash    tenant: how many of its runs are queued; see queued.lua
--   o:OWNER set     the runs it holds    c:OWNER  set  of them, to be cancelled    x:OWNER  set  of them, with deaths
--   free    zset    runs with a deadline that nobody owns, by it; entrusted ones by it and the engine's grace
--   open    hash    tenant: how many of its runs have not ended
--   ix, ix:t:TENANT, ix:s:SESSION  zset  ids, newest last
--   unheard zset    entrusted runs by how much their engine is still to be told
--   duty:DUTY  hash  which process does something for all, and until when, see duty.lua
--   purge   zset    ended runs by when their data goes;  tomb  zset  purged ones by when they are forgotten
--
-- Invariants: a run is in q: or qs: and `queued` exactly while its status is queued; in o:OWNER exactly while owned by
-- a process; in `parked` exactly while it runs without an owner. `detach` and `attach` are the only ones to see to it.

local P = ARGV[1]
local call = redis.call
local FIELDS = {'status', 'owner', 'token', 'tenant', 'pipeline', 'session', 'priority', 'deadline', 'retention',
  'started', 'finished', 'cancel', 'deaths', 'parked', 'path', 'announces', 'signal_bytes', 'event_bytes', 'purged',
  'deaths_alone', 'deaths_silent', 'company', 'left_by'}
local NUMBERS = {token = true, priority = true, deadline = true, retention = true, started = true, finished = true,
  deaths = true, parked = true, signal_bytes = true, event_bytes = true, deaths_alone = true, deaths_silent = true,
  company = true}
local OUTCOMES = {completed = true, failed = true, cancelled = true, expired = true}
local ARGS_MAX = 1000

local runs = {}
local touched = {}

-- Numbers as text that gives the same number again.
local function text(value)
  if type(value) == 'number' then return string.format('%.17g', value) end
  return value
end

-- The run, as this script has changed it so far; nil if there is none.
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

-- A field's new value, nil for none; written by `flush`.
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

-- Everything that `set` and the appends have gathered. A run that has ended lives as long as `run.ttl_s` says.
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

local function queue_of(run)
  return P .. ((run.deaths or 0) >= SUSPECT and 'qs:' or 'q:') .. run.pipeline
end

-- Take a run out of wherever its state has put it, before that changes.
local function detach(run)
  if run.status == 'queued' then
    call('ZREM', queue_of(run), run.id)
    call('SREM', P .. 'queued', run.id)
    if call('HINCRBY', P .. 'waiting', run.tenant, -1) == 0 then call('HDEL', P .. 'waiting', run.tenant) end
  end
  if run.owner and run.owner ~= ENGINE then
    call('SREM', P .. 'o:' .. run.owner, run.id)
    if run.cancel then call('SREM', P .. 'c:' .. run.owner, run.id) end
    if (run.deaths or 0) > 0 then call('SREM', P .. 'x:' .. run.owner, run.id) end
  end
  if run.parked then call('ZREM', P .. 'parked', run.id) end
  if run.deadline then call('ZREM', P .. 'free', run.id) end
end

-- Put a run where its new state belongs.
local function attach(run)
  if OUTCOMES[run.status] then return end
  if run.status == 'queued' then
    call('ZADD', queue_of(run), text(-run.priority), run.id)
    call('SADD', P .. 'queued', run.id)
    call('HINCRBY', P .. 'waiting', run.tenant, 1)
  end
  if run.owner and run.owner ~= ENGINE then
    call('SADD', P .. 'o:' .. run.owner, run.id)
    if run.cancel then call('SADD', P .. 'c:' .. run.owner, run.id) end
    if (run.deaths or 0) > 0 then call('SADD', P .. 'x:' .. run.owner, run.id) end
    return
  end
  if run.parked then call('ZADD', P .. 'parked', text(run.parked), run.id) end
  if run.deadline then
    call('ZADD', P .. 'free', text(run.deadline + (run.owner and GRACE_S or 0)), run.id)
  end
end

-- What a death tells of a run that died among so many: `after_death` of core/claims.py.
local function count_death(run, among, silent)
  set(run, 'deaths', (run.deaths or 0) + 1)
  if among == 1 then set(run, 'deaths_alone', (run.deaths_alone or 0) + 1) end
  if silent then set(run, 'deaths_silent', (run.deaths_silent or 0) + 1) end
  set(run, 'company', run.deaths >= SUSPECT and math.max(1, math.floor(among / 2)) or UNBOUNDED)
end

-- Queue a run for any owner: `release` of core/ownership.py with `left_by`, `unpark` without. With `among`, its process
-- has died with so many.
local function enqueue(run, left_by, among)
  detach(run)
  if left_by then set(run, 'left_by', left_by) end
  set(run, 'status', 'queued')
  set(run, 'owner', nil)
  set(run, 'parked', nil)
  if among then count_death(run, among, left_by == 'silence') end
  attach(run)
end

-- Give a run to an owner: the move of `claim` and `assign` of core/ownership.py. The token grows, and with the time of
-- day: should the server lose its last writes, no claim that is forgotten has the token of a later one.
local function take(run, owner, now)
  detach(run)
  local fresh = not run.started
  set(run, 'status', 'running')
  set(run, 'path', 'deep')
  set(run, 'owner', owner)
  set(run, 'parked', nil)
  set(run, 'token', math.max(run.token + 1, math.floor(now * 1000)))
  if fresh then set(run, 'started', now) end
  attach(run)
  return fresh
end

-- An owner is gone, and has died unless it said that it leaves: what it held is queued. How many runs that was.
local function forget(owner, blames, left_by)
  local known = call('HGET', P .. 'owners', owner)
  if known and cmsgpack.unpack(known)[6] then left_by = 'exit' end
  local died = blames and left_by ~= 'exit'
  call('HDEL', P .. 'owners', owner)
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

-- What the index and purge sets know a run by, when its hash may be gone.
local function card(run)
  return cmsgpack.pack({run.id, run.tenant, run.session or false})
end

local function unindex(id, tenant, session)
  call('ZREM', P .. 'ix', id)
  call('ZREM', P .. 'ix:t:' .. tenant, id)
  if session then call('ZREM', P .. 'ix:s:' .. session, id) end
end
