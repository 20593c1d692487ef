-- The state of resources and the answers of one call. SPECS, CLASSES and constants come before, see scripts.py.
--
-- KEYS[1] begins all names. ARGV[1], packed: the calling process, the time (0: the server's), operations. Keys:
--   lim:clients        zset: processes, by the end of their leases
--   lim:s:RESOURCE     the record of a resource, packed: what it counts, and what is learned
--   lim:names          set: resources that have one
--   lim:p:RESOURCE     hash: permits by id
--   lim:w:RESOURCE     hash: waiters by id
--   lim:c:, lim:k:     zsets: what was called, and tokens used, see windows.lua
--   lim:q:RESOURCE …   the order of waiters, see queue.lua
--   lim:e:, lim:y:     hashes: tokens to reserve by step, and what its last calls used
--   lim:keepers        hash: waiters that keep permits, with the resource that they wait for
--   lim:run:RUN        set: the waiters of a run
--   lim:up:RUN         the class that a run counts as
--   lim:life           which data of which server these are: {epoch, number, server}

local call = redis.call
local T = KEYS[1] .. 'lim:'
local request = cmsgpack.unpack(ARGV[1])
local ME, NOW, OPS = request[1], request[2], request[3]
if NOW == 0 then
  local time = call('TIME')
  NOW = time[1] + time[2] / 1000000
end

local UNKNOWN = {rates = {slot = 0}, tokens = {slot = 0}, share = 0, parts = {1, 1, 1}}

local resources = {}
local answers, told = {}, {}
local quiet = false  -- until when nothing is granted, as not all processes have told what they hold

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

-- A new record. `c` and `k` are of calls and tokens: what is open, what was noted in all and dropped since, by window what
-- was noted before its first entry and when that was noted.
local function new_log()
  return {open = 0, total = 0, dropped = 0, notes = 0, last = 0, began = 0, gone = {}, head = {}}
end

local function new_state()
  return {
    c = new_log(), k = new_log(), held = 0, waits = 0, scale = 1, blocked = 0, cut = -1, said = 0, held_s = {0, 0},
    amount = {0, 0}, first = {}, rest = {}, earned = {}, ended = {}, used = 0,
  }
end

-- A resource by its name, read once. One that this version of the app does not have has no limits, and grants nothing.
local function resource(name)
  local found = resources[name]
  if found then return found end
  local kept = call('GET', T .. 's:' .. name)
  found = {name = name, spec = SPECS[name] or UNKNOWN, s = kept and cmsgpack.unpack(kept) or new_state()}
  if not kept then call('SADD', T .. 'names', name) end
  resources[name] = found
  return found
end

local function save()
  for name, r in pairs(resources) do
    if r.changed then call('SET', T .. 's:' .. name, cmsgpack.pack(r.s), 'EX', C.KEPT_S) end
  end
end

-- Permits and waiters.

local function load_permit(r, id)
  local kept = call('HGET', T .. 'p:' .. r.name, id)
  if not kept then return nil end
  local p = cmsgpack.unpack(kept)
  return {id = id, client = p[1], step = p[2], tokens = p[3], granted_at = p[4], since = p[5], written = p[6]}
end

local function save_permit(r, p)
  local kept = cmsgpack.pack({p.client, p.step, p.tokens, p.granted_at, p.since, p.written})
  call('HSET', T .. 'p:' .. r.name, p.id, kept)
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
