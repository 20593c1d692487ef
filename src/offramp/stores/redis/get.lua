-- A run's record. ARGV[2] its id, ARGV[3] '1' to require the tenant ARGV[4]: another tenant's run is not read.

if ARGV[3] == '1' and redis.call('HGET', ARGV[1] .. 'r:' .. ARGV[2], 'tenant') ~= ARGV[4] then return {} end
return read_record(ARGV[2])
