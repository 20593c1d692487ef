-- A run's fields as a flat array, see rows.py for their names; empty if the run is unknown.

local SHOWN = {'status', 'path', 'started', 'finished', 'cancel', 'purged', 'record', 'input', 'webhook', 'demotion',
  'error', 'result', 'large', 'deaths', 'tenant', 'session', 'pipeline', 'deadline', 'retention', 'priority',
  'deaths_alone', 'deaths_silent', 'company', 'left_by', 'retried', 'waits', 'seen'}

local function read_record(id, without_large)
  local got = redis.call('HMGET', ARGV[1] .. 'r:' .. id, unpack(SHOWN))
  if not got[1] then return {} end
  if got[13] and not without_large then got[12] = redis.call('GET', ARGV[1] .. 'b:' .. id) end
  got[#SHOWN + 1] = id
  return got
end
