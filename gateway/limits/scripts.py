"""The Lua scripts of the shared limiter: one call each, all keys in one slot, the server's clock.

A TAT is kept as ``microseconds:nanoseconds`` (the second below 1000), so that every number is an
integer below 2^53 and exact in Lua's doubles; the caller computes costs, bursts and what to tell
from the TATs that come back, with the arithmetic of ``gcra``. A key expires when its bucket is
full. A reservation is ``held`` under its own key, then ``settled`` for a minute, so that a
settlement counts once, and one that overtakes its reservation prevents it.
"""

from __future__ import annotations

from gateway.limits.gcra import HORIZON_NS

__all__ = ["RENEW", "RESERVE", "SETTLE"]

_HEAD = (
    f"local horizon = {HORIZON_NS // 1000}"
    """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])

local function text(number) return string.format('%.0f', number) end

local function read(key)
  local value = redis.call('GET', key)
  if value then
    local us, ns = string.match(value, '^(%d+):(%d+)$')
    us, ns = tonumber(us), tonumber(ns)
    if us >= now then return us, ns end
  end
  return now, 0
end

local function write(key, us, ns)
  if us - now >= horizon then us, ns = now + horizon, 0 end
  if us < now or (us == now and ns == 0) then
    redis.call('DEL', key)
  else
    local ttl = math.floor((us - now) / 1000) + 1000
    redis.call('SET', key, text(us) .. ':' .. text(ns), 'PX', text(ttl))
  end
end

local function add(us, ns, more_us, more_ns)
  us, ns = us + more_us, ns + more_ns
  if ns >= 1000 then return us + 1, ns - 1000 end
  return us, ns
end

local function lease(key, id, ttl)
  redis.call('ZADD', key, text(now + ttl * 1000), id)
  redis.call('PEXPIRE', key, text(ttl + 1000))
end
"""
)

RESERVE = (
    _HEAD
    + """
-- KEYS: reservation, limit... ARGV: id, ttl ms, then for each limit:
--   rate, cost us, cost ns, burst us, burst ns    or    stream, 0 or 1, burst, -, -
-- Returns: 1 taken, 0 refused, -1 settled before; now; for each limit what it was before:
--   TAT us, ns    or    running streams, 0
local id, ttl = ARGV[1], tonumber(ARGV[2])
local taken, before = 1, {}
if redis.call('EXISTS', KEYS[1]) == 1 then taken = -1 end
for i = 2, #KEYS do
  local a = 5 * i - 7
  local first, second = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  if ARGV[a] == 'stream' then
    redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', text(now))
    local running = redis.call('ZCARD', KEYS[i])
    if first == 1 and running >= second and taken == 1 then taken = 0 end
    before[i] = {running, 0}
  else
    local us, ns = read(KEYS[i])
    before[i] = {us, ns}
    local burst_us, burst_ns = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
    local after_us, after_ns = add(us, ns, first, second)
    local long = after_us - now
    local over = long > burst_us or (long == burst_us and after_ns > burst_ns)
    if over and first + second > 0 and taken == 1 then taken = 0 end
  end
end
local reply = {taken, now}
for i = 2, #KEYS do
  reply[#reply + 1] = before[i][1]
  reply[#reply + 1] = before[i][2]
end
if taken == 1 then
  redis.call('SET', KEYS[1], 'held', 'PX', text(ttl))
  for i = 2, #KEYS do
    local a = 5 * i - 7
    local first, second = tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
    if ARGV[a] == 'stream' then
      if first == 1 then lease(KEYS[i], id, ttl) end
    elseif first + second > 0 then
      local us, ns = add(before[i][1], before[i][2], first, second)
      write(KEYS[i], us, ns)
    end
  end
end
return reply
"""
)

SETTLE = (
    _HEAD
    + """
-- KEYS: reservation, limit... ARGV: id, then for each limit:
--   rate, us, ns (to give back: us < 0, ns still 0 to 999)    or    stream, 0, 0
-- Returns: 1 settled now, 0 nothing was held.
local held = redis.call('GET', KEYS[1]) == 'held'
redis.call('SET', KEYS[1], 'settled', 'PX', '60000')
for i = 2, #KEYS do
  local a = 3 * i - 4
  if ARGV[a] == 'stream' then
    redis.call('ZREM', KEYS[i], ARGV[1])
  elseif held then
    local us, ns = read(KEYS[i])
    us, ns = add(us, ns, tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]))
    write(KEYS[i], us, ns)
  end
end
return held and 1 or 0
"""
)

RENEW = (
    _HEAD
    + """
-- KEYS: reservation, stream... ARGV: id, ttl ms. Returns: 1 renewed, 0 it is settled.
if redis.call('GET', KEYS[1]) == 'settled' then return 0 end
local ttl = tonumber(ARGV[2])
redis.call('SET', KEYS[1], 'held', 'PX', text(ttl))
for i = 2, #KEYS do lease(KEYS[i], ARGV[1], ttl) end
return 1
"""
)
