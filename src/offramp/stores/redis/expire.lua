-- Retire the owners whose lease ran out before ARGV[2]; answers who they were.

local late = call('ZRANGE', P .. 'owners:until', '-inf', '(' .. ARGV[2], 'BYSCORE')
for _, owner in ipairs(late) do forget(owner, 0) end
flush()
return late
