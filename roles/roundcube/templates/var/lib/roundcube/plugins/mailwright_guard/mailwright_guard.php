<?php
// Managed by mailwright: changes are overwritten.

/**
 * Tells the log where a wrong password came from, for the firewall to count.
 *
 * Roundcube's own line holds the user name as it was typed; a line break in it forges whole lines, and with them bans
 * of other people's addresses. This line holds nothing the client chose, and a facility that no other line has.
 */
class mailwright_guard extends rcube_plugin
{
    public $task = 'login';

    public function init()
    {
        $this->add_hook('login_failed', [$this, 'report']);
    }

    public function report($arguments)
    {
        $storage = rcmail::get_instance()->storage;
        // a directory or an IMAP server that is down is nobody's guess
        $refused = $storage && $storage->conn && $storage->conn->resultcode === 'AUTHENTICATIONFAILED';
        if ($refused || $arguments['code'] === rcmail::ERROR_RATE_LIMIT) {
            syslog(LOG_AUTHPRIV | LOG_NOTICE, 'wrong password from ' . $_SERVER['REMOTE_ADDR']);
        }

        return $arguments;
    }
}
