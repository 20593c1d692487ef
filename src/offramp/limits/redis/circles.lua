-- Circles of waits: `cycles.py` of core/limits, restated.

local function fits_beside(r, load, tokens)
  if load.permits >= concurrency_of(r, ALL) then return false end
  for _, rate in ipairs(r.spec.rates) do
    if load.unwritten >= scaled(r, rate[1], ALL) then return false end
  end
  for _, rate in ipairs(r.spec.tokens) do
    if load.tokens > 0 and load.tokens + tokens > scaled(r, rate[1], ALL) then return false end
  end
  return true
end

-- Whether a waiter may be in a circle: not if it fits beside all that waiters keep of the resource, at most.
local function may_be_stuck(r, w)
  if w.queue ~= 'first' then return false end
  local unwritten = math.min(r.s.kept[1], r.s.c and r.s.c.open or 0)
  return not fits_beside(r, {permits = r.s.kept[1], unwritten = unwritten, tokens = r.s.kept[2]}, w.tokens)
end

local function load_of(circles, name)
  local load = circles.loads[name]
  if not load then
    load = {permits = 0, unwritten = 0, tokens = 0}
    circles.loads[name] = load
  end
  return load
end

local function adds(load, p, times)
  load.permits, load.tokens = load.permits + times, load.tokens + times * p.tokens
  if not p.written then load.unwritten = load.unwritten + times end
end

-- A waiter is taken to be granted, or is refused: what only it keeps is free some time later.
local function goes_on(circles, w)
  w.goes_on = true
  for _, held in ipairs(w.holds) do
    local kept = circles.kept[held[1]]
    kept.by = kept.by - 1
    if kept.by == 0 and kept.permit then
      adds(load_of(circles, held[2]), kept.permit, -1)
      table.insert(circles.todo, held[2])
    end
  end
end

-- Those that fit go on, until none does: those that are left wait for each other.
local function resolve(circles)
  while circles.todo[1] do
    local name = table.remove(circles.todo)
    local asks = circles.left[name] or {}
    while asks[1] do
      local w = asks[#asks]
      if not w.goes_on then
        if not fits_beside(w.of, load_of(circles, name), w.tokens) then break end
        goes_on(circles, w)
      end
      table.remove(asks)
    end
  end
end

-- The waiters that keep permits, by id and by resource, those that need least last; what is kept, by how many.
local function find_circles()
  local circles, keepers = {waiting = {}, left = {}, kept = {}, loads = {}, todo = {}}, call('HGETALL', T .. 'keepers')
  for at = 1, #keepers, 2 do
    local name = keepers[at + 1]
    local w = load_waiter(resource(name), keepers[at])
    if w then
      w.of, circles.waiting[w.id] = resource(name), w
      if not circles.left[name] then
        circles.left[name] = {}
        table.insert(circles.todo, name)
      end
      table.insert(circles.left[name], w)
      for _, held in ipairs(w.holds) do
        local kept = circles.kept[held[1]]
        if not kept then
          kept = {by = 0, permit = load_permit(resource(held[2]), w.client, held[1])}
          circles.kept[held[1]] = kept
          if kept.permit then adds(load_of(circles, held[2]), kept.permit, 1) end
        end
        kept.by = kept.by + 1
      end
    end
  end
  for _, asks in pairs(circles.left) do table.sort(asks, function(a, b) return a.tokens > b.tokens end) end
  resolve(circles)
  return circles
end

-- A waiter in a circle is refused.
local function break_circle(circles, w)
  dequeue(w.of, w)
  tell(w.client, {'r', w.id, 'deadlock'})
  goes_on(circles, w)
  resolve(circles)
end

-- Limits shrank: of what waits in a circle because of that, the newest is refused until none does.
local function untangle()
  if call('EXISTS', T .. 'keepers') == 0 then return end
  local circles, stuck = find_circles(), {}
  for _, w in pairs(circles.waiting) do
    if not w.goes_on then table.insert(stuck, w) end
  end
  table.sort(stuck, function(a, b) return a.since > b.since or (a.since == b.since and a.id > b.id) end)
  for _, w in ipairs(stuck) do
    if not w.goes_on then break_circle(circles, w) end
  end
end
