-- What a resource has left: `Windows`, `Mean` and `Capacity` of core/limits, restated.
--
-- A log is a zset: each entry's score is what was noted up to and with it, all in all; its member begins with the time.
-- The record has by window, named by its seconds, what was noted before its first entry, and when that was noted.

local ALL, LOWER, OVERDUE = 1, 2, 3

local function log_key(r, kind) return T .. kind .. ':' .. r.name end

local function rates_of(r, kind) return r.spec[LOGS[kind]] end

local function margin_of(kind) return kind == 'g' and 0 or C.MARGIN_S end

-- The last entry of a log.
local function member_of(log) return text(log.last) .. ' ' .. text(log.total) end

-- The server's clock was set back: what counts does so from now on.
local function set_back(r, kind)
  local log, least = r.s[kind], r.s[kind].total
  for _, gone in pairs(log.gone) do least = math.min(least, gone) end
  call('DEL', log_key(r, kind))
  log.last, log.began, log.dropped = NOW, nil, least
  for name in pairs(log.gone) do log.gone[name], log.head[name] = least, log.total > least and NOW end
  if log.total > least then
    call('ZADD', log_key(r, kind), text(log.total), member_of(log))
    call('EXPIRE', log_key(r, kind), C.KEPT_S)
  end
end

-- Count what still counts now.
local function pass_log(r, kind)
  local log = r.s[kind]
  if not log then return end
  if log.last > NOW + C.BACK_S then set_back(r, kind) end
  for _, rate in ipairs(rates_of(r, kind)) do
    -- A window of another version of the app begins with all that is kept.
    if not log.gone[rate[3]] then log.gone[rate[3]], log.head[rate[3]] = log.dropped, 0 end
  end
  for name, head in pairs(log.head) do
    local span = tonumber(name) + margin_of(kind)
    while head and head + span <= NOW do
      local entries = call('ZRANGEBYSCORE', log_key(r, kind), '(' .. text(log.gone[name]), '+inf', 'WITHSCORES',
        'LIMIT', 0, C.READ)
      head = false
      if not entries[1] then log.gone[name] = log.total end  -- the log has ended: nothing of it counts
      for at = 1, #entries, 2 do
        head = tonumber(string.match(entries[at], '^%S+'))
        if head + span > NOW then break end
        log.gone[name] = tonumber(entries[at + 1])
        if at + 1 == #entries and #entries < 2 * C.READ then head = false end
      end
      log.head[name] = head
    end
  end
end

local function pass(r)
  if r.passed then return end
  r.passed = true
  r.s.blocked, r.s.cut = math.min(r.s.blocked, NOW + C.BLOCKED_S_MAX), math.min(r.s.cut, NOW)
  pass_log(r, 'c')
  pass_log(r, 'k')
  pass_log(r, 'g')
end

local function used_of(log, rate) return log.open + log.total - log.gone[rate[3]] end

-- A log ends so long after this.
local function keep(r, kind, log)
  log.renewed = NOW
  call('EXPIRE', log_key(r, kind), C.KEPT_S)
end

-- Entries that no window counts any more are removed, some at once.
local function drop_old(r, kind, log)
  local least = log.total
  for _, gone in pairs(log.gone) do least = math.min(least, gone) end
  call('ZREMRANGEBYSCORE', log_key(r, kind), '-inf', text(least))
  keep(r, kind, log)
  log.dropped, log.notes = least, 0
end

-- So much more is open, or less.
local function open(r, kind, amount)
  local log = r.s[kind]
  if log then log.open = math.max(0, log.open + amount) end
end

-- An open amount counts from `at` on, or from the last entry if that is later.
local function note(r, kind, at, amount, opened)
  local log, slot = r.s[kind], rates_of(r, kind).slot
  if not log then return end
  log.open = math.max(0, log.open - opened)
  if amount <= 0 then return end
  local key = log_key(r, kind)
  at = math.max(at, log.last)
  local replaced
  if slot > 0 then  -- an entry collects what is noted soon after it
    if log.began and at - log.began < slot then replaced = member_of(log) else log.began = at end
  end
  local was_empty = log.total == log.dropped
  log.total, log.last = log.total + amount, at
  call('ZADD', key, text(log.total), member_of(log))
  if replaced then call('ZREM', key, replaced) end  -- after the other, as an empty key would lose when it ends
  if was_empty or NOW >= (log.renewed or 0) + C.KEPT_S / 4 then keep(r, kind, log) end
  for name, head in pairs(log.head) do log.head[name] = head or at end
  log.notes = log.notes + 1
  if log.notes >= C.DROP_EVERY then drop_old(r, kind, log) end
end

-- When so much more fits into a window, if nothing else is granted.
local function window_free_at(r, kind, rate, amount, limit)
  local log = r.s[kind]
  local total = used_of(log, rate)
  local need = total + amount - limit
  if need <= 0 or total == 0 then return NOW end
  local span, rounds, first = rate[2] + margin_of(kind), 0, NOW
  if need > total then
    rounds = math.ceil((need - total) / limit)
    need = need - rounds * limit
  end
  if need > total - log.open then
    first = NOW + span
  elseif need > 0 then
    local entry = call('ZRANGEBYSCORE', log_key(r, kind), text(log.gone[rate[3]] + need), '+inf', 'LIMIT', 0, 1)[1]
    first = (entry and tonumber(string.match(entry, '^%S+')) or NOW) + span
  end
  return first + rounds * span
end

-- A mean {value, count} that forgets.
local function add_mean(mean, value)
  if mean[2] < 1 / C.MEAN_WEIGHT then
    mean[2] = mean[2] + 1
    mean[1] = mean[2] == 1 and value or mean[1] + (value - mean[1]) / mean[2]
  else
    mean[1] = mean[1] + (value - mean[1]) * C.MEAN_WEIGHT
  end
end

local function mean_of(mean) return mean[2] > 0 and mean[1] or nil end

-- A limit as it is scaled, for a part of it.
local function scaled(r, declared, part)
  return math.max(1, math.floor(declared * r.s.scale * r.spec.parts[part] + 1e-9))
end

local function concurrency_of(r, part)
  return r.spec.concurrency and scaled(r, r.spec.concurrency, part) or math.huge
end

local function fits_log(r, kind, amount, part)
  local log = r.s[kind]
  for _, rate in ipairs(rates_of(r, kind)) do
    local used = used_of(log, rate)
    if used ~= 0 and used + amount > scaled(r, rate[1], part) then return false end
  end
  return true
end

-- Of a window that a part of the limits uses at an even pace: from how many calls in it on, and how many at once.
local function pace_of(r, paced, part)
  local limit = scaled(r, paced[1], part)
  return math.max(1, math.floor(limit * C.PACED_FROM)), math.ceil(limit / C.PACE)
end

local function outpaces(r, part)
  if r.spec.parts[part] == 1 then return false end
  for _, paced in ipairs(r.spec.paced) do
    local filled, limit = pace_of(r, paced, part)
    if used_of(r.s.c, r.spec.rates[paced.of]) >= filled and used_of(r.s.g, paced) >= limit then return true end
  end
  return false
end

-- What keeps a call from being made now; nil if nothing does.
local function lacks(r, tokens, part)
  if r.s.held >= concurrency_of(r, part) then return 'concurrency' end
  if not fits_log(r, 'c', 1, part) or outpaces(r, part) then return 'rate' end
  if not fits_log(r, 'k', tokens, part) then return 'tokens' end
end

-- When a window has room for so many tokens, if calls under way use what others used, and give `rest` back as they end.
local function tokens_free_at(r, rate, need, part, rest)
  local limit = scaled(r, rate[1], part)
  local at = window_free_at(r, 'k', rate, need, limit)
  if rest <= 0 then return at end
  local ended = NOW + (mean_of(r.s.held_s) or 0)
  return math.min(at, math.max(ended, window_free_at(r, 'k', rate, need - rest, limit)))
end

-- The latest of when the windows have room for `ahead` calls and one more, and for `need` tokens unless that is nil; and
-- of which kind that is.
local function windows_free_at(r, ahead, need, part, rest)
  local at, why
  local function later(when, reason)
    if not at or when > at or (when == at and reason > why) then at, why = when, reason end
  end
  for _, rate in ipairs(r.spec.rates) do
    later(window_free_at(r, 'c', rate, ahead + 1, scaled(r, rate[1], part)), 'rate')
  end
  for _, paced in ipairs(r.spec.parts[part] < 1 and r.spec.paced or {}) do
    local filled, limit = pace_of(r, paced, part)
    local slow = window_free_at(r, 'g', paced, ahead + 1, limit)
    later(math.min(slow, window_free_at(r, 'c', r.spec.rates[paced.of], ahead + 1, filled)), 'rate')
  end
  for _, rate in ipairs(need and r.spec.tokens or {}) do
    later(tokens_free_at(r, rate, need, part, rest), 'tokens')
  end
  return at, why
end

-- When a call fits if no other is made; nil if it waits for another to end.
local function free_at(r, tokens, part)
  if r.s.held >= concurrency_of(r, part) then return nil end
  return windows_free_at(r, 0, tokens, part, 0) or NOW
end

-- What a call that `ahead` others go before waits for longest, and until when; nil if nothing is known.
local function foretold(r, ahead, tokens, part)
  local amount, need, rest = mean_of(r.s.amount), nil, 0
  if amount and #r.spec.tokens > 0 then
    need, rest = ahead * amount + tokens, r.s.k.open - r.s.held * amount
  end
  local at, why = windows_free_at(r, ahead, need, part, rest)
  local blocked, limit = r.s.blocked, concurrency_of(r, part)
  if blocked > NOW then
    at = at and at + blocked - NOW
    if not at or blocked > at or (blocked == at and 'retry-after' > why) then at, why = blocked, 'retry-after' end
  end
  local short = r.s.held + ahead + 1 - limit
  if short > 0 then
    local held_s = mean_of(r.s.held_s)
    if not held_s then return 'concurrency', nil end
    local free = math.max(NOW, blocked) + held_s * short / limit
    if not at or free > at then at, why = free, 'concurrency' end
  end
  if not amount and (at or NOW) <= NOW then  -- nobody knows what a call uses
    for _, rate in ipairs(r.spec.tokens) do
      if tokens_free_at(r, rate, (ahead + 1) * tokens, part, 0) > NOW then return 'tokens', nil end
    end
  end
  return why or 'rate', at or NOW
end

-- Calls that can be made in a second, as scaled; nil if that is unknown.
local function rate_of(r)
  local least
  local function smaller(rate) if not least or rate < least then least = rate end end
  for _, rate in ipairs(r.spec.rates) do smaller(scaled(r, rate[1], ALL) / rate[2]) end
  local amount, held_s = mean_of(r.s.amount), mean_of(r.s.held_s)
  if amount and amount > 0 then
    for _, rate in ipairs(r.spec.tokens) do smaller(scaled(r, rate[1], ALL) / rate[2] / amount) end
  end
  if held_s and held_s > 0 and r.spec.concurrency then smaller(concurrency_of(r, ALL) / held_s) end
  return least
end

-- A permit begins.
local function begins(r, tokens)
  r.s.held = r.s.held + 1
  open(r, 'c', 1)
  note(r, 'g', NOW, 1, 0)
  if #r.spec.tokens > 0 then
    open(r, 'k', tokens)
  end
end

local function blocks(r, until_)
  r.s.blocked = math.max(r.s.blocked, until_)
end

-- The provider refused a call that was granted then: the limits shrink, once for all that were under way.
local function cut(r, granted_at)
  if granted_at < r.s.cut then return end
  r.s.cut = NOW
  r.s.scale = math.max(C.SCALE_MIN, r.s.scale * C.SCALE_CUT)
end

-- A call succeeded.
local function grow(r)
  if r.s.scale >= 1 then return end
  local full = r.spec.concurrency or 1
  local amount = mean_of(r.s.amount)
  if #r.spec.rates > 0 then
    full = r.spec.largest
  elseif #r.spec.tokens > 0 and amount and amount > 0 then
    full = math.max(1, r.spec.largest / amount)
  end
  r.s.scale = math.min(1, r.s.scale + C.SCALE_GAIN / full)
end
