"""The Lua scripts of the Redis queue. A script runs as one atomic step, so each is one sentence of the queue's contract.

All run on Redis 6.2. The first write of a script is a command that Redis refuses when memory is full (HSET, XADD), so a full
server changes nothing at all; acknowledging alone is always possible.
"""

_COMMON = """
local deltas = {}

local function add(class, amount)
  deltas[class] = (deltas[class] or 0) + amount
end

local function apply_counts(counts)
  for class, amount in pairs(deltas) do
    if amount ~= 0 then redis.call('HINCRBY', counts, class, amount) end
  end
end

local function class_of(state)
  local kind = string.match(state, '^(%l+):')
  if kind == 'trained' or kind == 'baseline' then return kind end
  return state
end

local function move(ledger, id, state)
  local current = redis.call('HGET', ledger, id)
  if state == 'live' then
    if not current then
      redis.call('HSET', ledger, id, state)
      add('issued', 1)
      add('live', 1)
    end
  elseif current == 'live' then
    redis.call('HSET', ledger, id, state)
    add('live', -1)
    add(class_of(state), 1)
  end
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function append(stream, key, payload)
  redis.call('XADD', stream, '*', 'k', key, 'p', payload, 't', string.format('%.0f', now_ms()))
end

local function value_of(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
  return ''
end

local function fenced(tokens, name, token)
  return name ~= '' and redis.call('HGET', tokens, name) ~= token
end

local function delivered(stream, group, id, fields)
  local pending = redis.call('XPENDING', stream, group, id, id, 1)
  return {id, value_of(fields, 'k'), value_of(fields, 'p'), pending[1] and pending[1][4] or 1}
end
"""

COMMIT = (
    _COMMON
    + """
-- KEYS: marks, ledger, counts, values, set_aside, tokens, stream...
-- ARGV: group, mark, name of the fencing turn or '', its token, then six lists, each led by its length: outputs (index into KEYS,
--   key, payload), moves (id, state), values (name, value), values to remove (name), marks to forget (mark), consumed (index into
--   KEYS, stream, entry)
-- Returns 1: mark was new; 0: it was not; -1: refused, a consumed entry is a dead letter; -2: fenced.
local marks, ledger, counts, values, set_aside = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, mark = ARGV[1], ARGV[2]
if fenced(KEYS[6], ARGV[3], ARGV[4]) then return -2 end
local at = 5

local function read_list(width)
  local length = tonumber(ARGV[at])
  local first = at + 1
  at = first + length * width
  return first, at - 1
end

local outputs, outputs_end = read_list(3)
local moves, moves_end = read_list(2)
local sets, sets_end = read_list(2)
local removals, removals_end = read_list(1)
local forgotten, forgotten_end = read_list(1)
local consumed, consumed_end = read_list(3)

local is_new = redis.call('HEXISTS', marks, mark) == 0
if is_new then
  for i = consumed, consumed_end, 3 do
    if redis.call('HEXISTS', set_aside, ARGV[i + 1] .. '/' .. ARGV[i + 2]) == 1 then return -1 end
  end
  redis.call('HSET', marks, mark, '1')
  for i = outputs, outputs_end, 3 do append(KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2]) end
  for i = moves, moves_end, 2 do move(ledger, ARGV[i], ARGV[i + 1]) end
  apply_counts(counts)
  for i = sets, sets_end, 2 do redis.call('HSET', values, ARGV[i], ARGV[i + 1]) end
  for i = removals, removals_end do redis.call('HDEL', values, ARGV[i]) end
  for i = forgotten, forgotten_end do redis.call('HDEL', marks, ARGV[i]) end
end
for i = consumed, consumed_end, 3 do
  local stream = KEYS[tonumber(ARGV[i])]
  redis.call('XACK', stream, group, ARGV[i + 2])
  redis.call('XDEL', stream, ARGV[i + 2])
end
return is_new and 1 or 0
"""
)

TAKE = (
    _COMMON
    + """
-- KEYS: stream. ARGV: group, consumer, lease in ms, most.
-- Returns rows {entry, key, payload, deliveries}: entries whose lease ran out, then new ones.
local stream = KEYS[1]
local group, consumer, lease_ms, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local rows = {}
local from = '-'
while #rows < most do
  local overdue = redis.call('XPENDING', stream, group, 'IDLE', lease_ms, from, '+', 1)
  if #overdue == 0 then break end
  local id = overdue[1][1]
  from = '(' .. id
  local claimed = redis.call('XAUTOCLAIM', stream, group, consumer, lease_ms, id, 'COUNT', 1)[2][1]
  if claimed and claimed[2] then
    rows[#rows + 1] = delivered(stream, group, claimed[1], claimed[2])
  else
    -- The entry itself was deleted by hand: Redis 6.2 keeps it pending for ever.
    redis.call('XACK', stream, group, id)
  end
end
if #rows < most then
  local fresh = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', most - #rows, 'STREAMS', stream, '>')
  if fresh then
    for _, entry in ipairs(fresh[1][2]) do
      rows[#rows + 1] = {entry[1], value_of(entry[2], 'k'), value_of(entry[2], 'p'), 1}
    end
  end
end
return rows
"""
)

HELD = (
    _COMMON
    + """
-- KEYS: stream. ARGV: group, consumer, entry to start after, most.
-- Returns rows {entry, key, payload, deliveries} of what the consumer holds; {entry} alone where the entry was deleted by hand.
local stream, group = KEYS[1], ARGV[1]
local held = redis.call('XREADGROUP', 'GROUP', group, ARGV[2], 'COUNT', ARGV[4], 'STREAMS', stream, ARGV[3])
local rows = {}
if held then
  for _, entry in ipairs(held[1][2]) do
    if entry[2] then
      rows[#rows + 1] = delivered(stream, group, entry[1], entry[2])
    else
      redis.call('XACK', stream, group, entry[1])
      rows[#rows + 1] = {entry[1]}
    end
  end
end
return rows
"""
)

RENEW = """
-- KEYS: stream. ARGV: group, consumer, entry... Extends the lease of each entry that this consumer still holds.
for i = 3, #ARGV do
  local mine = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
  if #mine > 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  end
end
return 0
"""

GIVE_BACK = """
-- KEYS: stream. ARGV: group, consumer, nobody, entry... What this consumer still holds can be claimed at once; its delivery does not count.
for i = 4, #ARGV do
  local mine = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2])
  if #mine > 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i], 'IDLE', 1000000000, 'RETRYCOUNT', mine[1][4] - 1, 'JUSTID')
  end
end
return 0
"""

LETTERS = (
    _COMMON
    + """
-- KEYS: dead. ARGV: letter to start after or '', most. Returns rows {letter, stream name, key, payload bytes, reason, rollout ids}.
local from = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local rows = {}
for _, letter in ipairs(redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', ARGV[2])) do
  local fields = letter[2]
  local bytes = #value_of(fields, 'p')
  rows[#rows + 1] = {letter[1], value_of(fields, 's'), value_of(fields, 'k'), bytes, value_of(fields, 'r'), value_of(fields, 'i')}
end
return rows
"""
)

DEAD_LETTER = (
    _COMMON
    + """
-- KEYS: stream, dead, ledger, counts, set_aside. ARGV: group, entry, stream name, reason, rollout id...
-- Returns 1, or 0 if the entry was no longer there (committed or set aside by another worker).
local stream, dead, ledger, counts, set_aside = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, id, name, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local entry = redis.call('XRANGE', stream, id, id)[1]
if not entry then return 0 end
local ids = {}
for i = 5, #ARGV do ids[#ids + 1] = ARGV[i] end
local letter = redis.call('XADD', dead, '*', 's', name, 'k', value_of(entry[2], 'k'), 'p', value_of(entry[2], 'p'),
  'r', reason, 'i', table.concat(ids, '\\n'), 'e', id, 't', string.format('%.0f', now_ms()))
redis.call('HSET', set_aside, name .. '/' .. id, letter)
for _, rollout in ipairs(ids) do move(ledger, rollout, 'dead:' .. name) end
apply_counts(counts)
redis.call('XACK', stream, group, id)
redis.call('XDEL', stream, id)
return 1
"""
)

REPLAY = (
    _COMMON
    + """
-- KEYS: stream, dead, ledger, counts, set_aside. ARGV: letter. Returns 1, or 0 if the letter was no longer there.
local stream, dead, ledger, counts, set_aside = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local letter = redis.call('XRANGE', dead, ARGV[1], ARGV[1])[1]
if not letter then return 0 end
local fields = letter[2]
local name = value_of(fields, 's')
append(stream, value_of(fields, 'k'), value_of(fields, 'p'))
local died = 'dead:' .. name
for rollout in string.gmatch(value_of(fields, 'i'), '[^\\n]+') do
  if redis.call('HGET', ledger, rollout) == died then
    redis.call('HSET', ledger, rollout, 'live')
    add(died, -1)
    add('live', 1)
  end
end
apply_counts(counts)
redis.call('HDEL', set_aside, name .. '/' .. value_of(fields, 'e'))
redis.call('XDEL', dead, ARGV[1])
return 1
"""
)

DEPTH = """
-- KEYS: stream. ARGV: group. Returns {entries, entries on loan, age of the oldest in ms}.
local entries = redis.call('XLEN', KEYS[1])
local loans = redis.call('XPENDING', KEYS[1], ARGV[1])
if entries == 0 then return {0, 0, 0} end
-- Entries are lent in order, so the oldest one on loan is older than any that waits.
local oldest = loans[2] or redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1][1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local age = now - tonumber(string.match(oldest, '^%d+'))
return {entries, loans[1], age > 0 and age or 0}
"""

TAKE_TURN = """
-- KEYS: turn, tokens. ARGV: owner, milliseconds, turn name. Returns the owner's token, or 0. Tokens outlive the turn: they only grow.
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local last_owner = ARGV[3] .. '/owner'
if redis.call('HGET', KEYS[2], last_owner) ~= ARGV[1] then
  redis.call('HSET', KEYS[2], last_owner, ARGV[1])
  redis.call('HINCRBY', KEYS[2], ARGV[3], 1)
end
return tonumber(redis.call('HGET', KEYS[2], ARGV[3]))
"""

RESTORE_LEDGER = (
    _COMMON
    + """
-- KEYS: ledger, counts, tokens, new ledger. ARGV: name of the fencing turn or '', its token, counts (state, number)...
-- Returns 1, or -2: fenced.
if fenced(KEYS[3], ARGV[1], ARGV[2]) then
  redis.call('DEL', KEYS[4])
  return -2
end
redis.call('DEL', KEYS[1], KEYS[2])
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('RENAME', KEYS[4], KEYS[1]) end
for i = 3, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
return 1
"""
)

SNAPSHOT = """
-- KEYS: ledger, values, copy. ARGV: milliseconds that the copy lives. Returns {name, value, ...}; the copy is for reading in pages.
redis.call('DEL', KEYS[3])
if redis.call('COPY', KEYS[1], KEYS[3]) == 1 then redis.call('PEXPIRE', KEYS[3], ARGV[1]) end
return redis.call('HGETALL', KEYS[2])
"""

SET_PASSING = (
    _COMMON
    + """
-- KEYS: passing. ARGV: name, value, milliseconds that it lives.
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now_ms() + tonumber(ARGV[3])) .. '|' .. ARGV[2])
return 1
"""
)

PASSING = (
    _COMMON
    + """
-- KEYS: passing. ARGV: prefix. Returns {name, value, ...} of what has not expired, and removes what has.
local all = redis.call('HGETALL', KEYS[1])
local found, now = {}, now_ms()
for i = 1, #all, 2 do
  local bar = string.find(all[i + 1], '|', 1, true)
  if tonumber(string.sub(all[i + 1], 1, bar - 1)) <= now then
    redis.call('HDEL', KEYS[1], all[i])
  elseif string.sub(all[i], 1, #ARGV[1]) == ARGV[1] then
    found[#found + 1] = all[i]
    found[#found + 1] = string.sub(all[i + 1], bar + 1)
  end
end
return found
"""
)

END_TURN = """
-- KEYS: turn. ARGV: owner.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
"""
