-- Retire the owners whose lease ran out before ARGV[2]; ARGV[3] '1' if that is a death. Returns their ids.

local late = call('ZRANGE', P .. 'owners:until', '-inf', '(' .. ARGV[2], 'BYSCORE')
for _, owner in ipairs(late) do forget(owner, ARGV[3] == '1', 'silence') end
flush()
return late
