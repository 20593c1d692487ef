-- The state of resources and the answers of one call. SPECS, CLASSES and constants come before, see scripts.py.
--
-- The key of a call begins all names. Its argument, packed: the process, the time (0: the server's), operations. Keys:
--   lim:clients        zset: processes, by the end of their leases
--   lim:s:RESOURCE     the record of a resource, packed: what it counts, and what is learned
--   lim:names          set: resources that have one
--   lim:p:RESOURCE OF  hash: permits of a process by id
--   lim:w:RESOURCE     hash: waiters by id
--   lim:c:, :k:, :g:   zsets: what was called, tokens used, what was granted, see windows.lua
--   lim:q:RESOURCE …   the order of waiters, see queue.lua
--   lim:e:RESOURCE     hash: tokens to reserve by step, and how many calls that is of; zsets lim:y:: its last calls
--   lim:keepers        hash: waiters that keep permits, with the resource that they wait for
--   lim:of:PROCESS     set: its waiters, with the resources that they wait for; lim:run:RUN: those of a run
--   lim:up:RUN         the class that a run counts as
--   lim:heard          zset: the same as lim:clients, as it was when these data came to another server
--   lim:life           which data of which server these are: {epoch, number, server}

-- The functions are defined once, when a server loads them; each call sets these anew, see operations.lua.
local call
local T, ME, NOW, OPS
local resources, answers, told
local quiet  -- until when nothing is granted, as not all processes have told what they hold

local UNKNOWN = {rates = {slot = 0}, tokens = {slot = 0}, paced = {slot = 0}, share = 0, parts = {1, 1, 1}}

-- Numbers as text that parses to the same number.
local function text(value) return string.format('%.17g', value) end

-- Tell a process; what others are told is published at the end.
local function tell(client, message)
  if client == ME then
    answers[#answers + 1] = message
  else
    told[client] = told[client] or {}
    table.insert(told[client], message)
  end
end

local function publish()
  for client, messages in pairs(told) do call('PUBLISH', T .. 'to:' .. client, cmsgpack.pack(messages)) end
end

-- A new log: what is open, what was noted in all and dropped since, how often and when last, by window what was noted
-- before its first entry and when that was noted.
local function new_log()
  return {open = 0, total = 0, dropped = 0, notes = 0, last = 0, gone = {}, head = {}}
end

local function new_state()
  return {
    held = 0, waits = 0, scale = 1, blocked = 0, cut = -1, said = 0, held_s = {0, 0},
    amount = {0, 0}, first = {}, rest = {}, earned = {}, granted = {}, served = {}, ended = {}, used = 0,
    kept = {0, 0},  -- permits that waiters keep, and their tokens: at most, as one that two keep counts twice
  }
end

-- The logs of a record: of calls, tokens and grants, each with the windows that it is for.
local LOGS = {c = 'rates', k = 'tokens', g = 'paced'}

-- Records as they were written last, by key: {packed, record}. A record is unpacked again only if it is another one.
local records, records_count = {}, 0

-- A resource by its name, read once. One that this version of the app does not have has no limits, and grants nothing.
local function resource(name)
  local found = resources[name]
  if found then return found end
  local key = T .. 's:' .. name
  local kept, known = call('GET', key), records[key]
  records[key] = nil  -- it changes, and may not be written
  local state
  if not kept then
    call('SADD', T .. 'names', name)
    state = new_state()
  elseif known and known[1] == kept then
    state = known[2]
  else
    state = cmsgpack.unpack(kept)
  end
  found = {name = name, key = key, spec = SPECS[name] or UNKNOWN, s = state}
  for kind, field in pairs(LOGS) do
    if #found.spec[field] > 0 and not state[kind] then state[kind] = new_log() end
  end
  resources[name] = found
  return found
end

local function save()
  for _, r in pairs(resources) do
    if r.changed then
      local packed = cmsgpack.pack(r.s)
      -- Permits and waiters stay until their process leaves: their record must not end before them.
      local is_used = r.s.held > 0 or r.s.waits > 0 or r.s.kept[1] > 0
      if is_used then call('SET', r.key, packed) else call('SET', r.key, packed, 'EX', C.KEPT_S) end
      records_count = records_count + 1
      if records_count > C.RECORDS_MAX then records, records_count = {}, 0 end
      records[r.key] = {packed, r.s}
    end
  end
end

-- Permits and waiters.

local function permits_key(r, client) return T .. 'p:' .. r.name .. ' ' .. client end

local function load_permit(r, client, id)
  local kept = call('HGET', permits_key(r, client), id)
  if not kept then return nil end
  local p = cmsgpack.unpack(kept)
  return {id = id, client = client, step = p[1], tokens = p[2], granted_at = p[3], written = p[4]}
end

local function save_permit(r, p)
  call('HSET', permits_key(r, p.client), p.id, cmsgpack.pack({p.step, p.tokens, p.granted_at, p.written}))
end

local function load_waiter(r, id)
  local kept = call('HGET', T .. 'w:' .. r.name, id)
  if not kept then return nil end
  local w = cmsgpack.unpack(kept)
  return {
    id = id, client = w[1], run = w[2], step = w[3], tenant = w[4], class = w[5], priority = w[6], since = w[7],
    tokens = w[8], queue = w[9], holds = w[10],
  }
end

local function save_waiter(r, w)
  call('HSET', T .. 'w:' .. r.name, w.id, cmsgpack.pack({
    w.client, w.run, w.step, w.tenant, w.class, w.priority, w.since, w.tokens, w.queue, w.holds,
  }))
end
