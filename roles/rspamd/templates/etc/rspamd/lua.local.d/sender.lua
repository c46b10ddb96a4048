-- Managed by mailwright: changes are overwritten.
-- Postfix has checked that a user may use the envelope sender; what people see is the From header, so the two agree.
local function bare(address)
  local user, domain = address:lower():match('^([^@]*)@(.*)$')
  return user and (user:gsub('%+.*$', '') .. '@' .. domain) or address:lower()
end

rspamd_config:register_symbol({
  name = 'AUTH_FROM_MISMATCH',
  type = 'prefilter',
  priority = 10,
  callback = function(task)
    if not task:get_user() then return end
    local envelope, header = task:get_from('smtp'), task:get_from('mime')
    if not (envelope and envelope[1] and header) then return end
    for _, from in ipairs(header) do
      if bare(from.addr or '') ~= bare(envelope[1].addr or '') then
        task:insert_result('AUTH_FROM_MISMATCH', 1.0, from.addr)
        task:set_pre_result('reject', '5.7.1 From header does not match the sender you are allowed to use')
        return
      end
    end
  end,
})
