-- A run's record. ARGV[2] its id, ARGV[3] '1' if it has to be of the tenant ARGV[4]: nothing of another's is read.

if ARGV[3] == '1' and redis.call('HGET', ARGV[1] .. 'r:' .. ARGV[2], 'tenant') ~= ARGV[4] then return {} end
return read_record(ARGV[2])
