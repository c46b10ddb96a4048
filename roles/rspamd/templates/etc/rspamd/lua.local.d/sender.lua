-- Managed by mailwright: changes are overwritten.
-- Postfix has checked that a user may use the envelope sender; what people see are the headers From and Sender, so
-- these agree with it. Without an envelope sender, as a receipt has none, the user is the measure.
local function bare(address)
  local user, domain = address:lower():match('^(.*)@([^@]*)$')
  return user and (user:gsub('%+.*$', '') .. '@' .. domain) or address:lower()
end

-- Counted in the text itself: a header with a space before the colon is none to Rspamd, and is one to readers.
local function count(task, name)
  local found = 0
  for line in ('\n' .. tostring(task:get_raw_headers())):gmatch('[\r\n]([^\r\n]*)') do
    local header = line:match('^([%w-]+)[ \t]*:')
    if header and header:lower() == name then found = found + 1 end
  end
  return found
end

local function problem(task)
  local envelope = task:get_from('smtp')
  local sender = envelope and envelope[1] and envelope[1].addr or ''
  local allowed = bare(sender ~= '' and sender or task:get_user())
  local util = require 'rspamd_util'
  for _, name in ipairs({ 'From', 'Sender' }) do
    local headers, lines = task:get_header_full(name) or {}, count(task, name:lower())
    if lines ~= #headers or lines > 1 or (lines == 0 and name == 'From') then
      return lines == 0 and 'no From header' or 'several ' .. name .. ' headers, or a malformed one'
    end
    if lines == 1 then
      local addresses = util.parse_mail_address(headers[1].value, task:get_mempool(), 1024) or {}
      if #addresses == 0 then return name .. ' holds no address' end
      for _, address in ipairs(addresses) do
        if bare(address.addr or '') ~= allowed then
          return name .. ' header does not match the sender you are allowed to use'
        end
      end
    end
  end
end

rspamd_config:register_symbol({
  name = 'AUTH_FROM_MISMATCH',
  type = 'prefilter',
  priority = 10,
  callback = function(task)
    if not task:get_user() then return end
    local words = problem(task)
    if words then
      task:insert_result('AUTH_FROM_MISMATCH', 1.0, words)
      task:set_pre_result('reject', '5.7.1 ' .. words)
    end
  end,
})
