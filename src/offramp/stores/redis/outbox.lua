-- Webhooks. Keys after the tag:
--   w:ID      hash  host, token, latest (the newest event to announce), cursor, attempts, failing_since, due
--   wd:HOST   zset  runs whose entry is due, by its time
--   hosts     zset  hosts with a due entry, by the earliest time
-- A run's field `announces` names the events that make its entry due, between commas; it is removed with the entry.

local announced = 0

local function rank_host(host)
  local first = call('ZRANGE', P .. 'wd:' .. host, 0, 0, 'WITHSCORES')
  if first[1] then
    call('ZADD', P .. 'hosts', first[2], host)
  else
    call('ZREM', P .. 'hosts', host)
  end
end

-- Set when an entry is due; nil for not now.
local function set_due(id, host, due)
  if due then
    call('HSET', P .. 'w:' .. id, 'due', text(due))
    call('ZADD', P .. 'wd:' .. host, text(due), id)
  else
    call('HDEL', P .. 'w:' .. id, 'due')
    call('ZREM', P .. 'wd:' .. host, id)
  end
  rank_host(host)
end

-- Note a new event. An entry that is claimed, or waits for its next attempt, keeps its time.
local function announce(run, kind, number)
  if not run.announces or not string.find(run.announces, ',' .. kind .. ',', 1, true) then return end
  local key = P .. 'w:' .. run.id
  local host = call('HGET', key, 'host')
  if not host then return end
  call('HSET', key, 'latest', number)
  if call('HEXISTS', key, 'due') == 0 then set_due(run.id, host, 0) end
  announced = 1
end

local function drop_webhook(id)
  local host = call('HGET', P .. 'w:' .. id, 'host')
  if not host then return end
  set_due(id, host, nil)
  call('DEL', P .. 'w:' .. id)
end
