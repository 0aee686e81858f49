-- Takes from all buckets of KEYS or from none, by the clock of this server. A bucket is the moment in microseconds at which
-- it owes nothing, and a fraction of one over the limit's count; one that owes nothing is not kept.
-- ARGV: 1 to take whatever is owed already, else 0; then for each key what one unit adds (microseconds, fraction), what a
-- whole burst is (the same), the count, and the cost, which gives back where it is negative.
-- Answers: 1 or 0, then for each key what is owed now (microseconds, fraction).
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local force = ARGV[1] == '1'
local answer, after = {1}, {}
for i = 1, #KEYS do
  local a = 6 * i - 4
  local step, rest, full, most = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3])
  local count, cost = tonumber(ARGV[a + 4]), tonumber(ARGV[a + 5])
  local tat, part = now, 0
  local kept = redis.call('GET', KEYS[i])
  if kept then
    local t, p = string.match(kept, '^(%d+):(%d+)$')
    t, p = tonumber(t), tonumber(p)
    if t and t >= now then
      tat, part = t, math.min(p, count - 1)
      -- More than a burst is owed only to a limit that was another before: a raised one is raised at once.
      if not force and (tat - now > full or (tat - now == full and part > most)) then
        tat, part = now + full, most
      end
    end
  end
  answer[2 * i], answer[2 * i + 1] = tat - now, part
  part = part + cost * rest
  local carry = math.floor(part / count)
  tat, part = tat + cost * step + carry, part - carry * count
  local owed = tat - now
  if not force and (owed > full or (owed == full and part > most)) then
    answer[1] = 0
  end
  after[i] = {tat, part}
end
if answer[1] == 1 then
  for i = 1, #KEYS do
    local tat, part = after[i][1], after[i][2]
    local owed = tat - now
    if owed < 0 or (owed == 0 and part == 0) then
      redis.call('DEL', KEYS[i])
      owed, part = 0, 0
    else
      redis.call('SET', KEYS[i], string.format('%.0f:%.0f', tat, part), 'PX', string.format('%.0f', math.ceil(owed / 1000) + 1))
    end
    answer[2 * i], answer[2 * i + 1] = owed, part
  end
end
return answer
