<?php
// Managed by mailwright: changes are overwritten.
// What no setting of Roundcube's does.
class mailwright extends rcube_plugin
{
    public function init()
    {
        $this->add_hook('startup', [$this, 'startup']);
        $this->add_hook('storage_connect', [$this, 'storage_connect']);
    }

    // strangers need not know the version
    public function startup($args)
    {
        $rcmail = rcmail::get_instance();
        if (!$rcmail->get_user_id() && $rcmail->output->type === 'html') {
            $rcmail->output->set_env('rcversion', null);
        }
        return $args;
    }

    // Dovecot counts wrong passwords by address: by the browser's, or one guesser would slow down everybody here
    public function storage_connect($args)
    {
        $args['preauth_ident'] = ['name' => 'webmail', 'x-originating-ip' => $_SERVER['REMOTE_ADDR']];
        return $args;
    }
}
