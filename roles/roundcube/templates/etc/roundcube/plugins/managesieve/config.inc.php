<?php
// Managed by mailwright: changes are overwritten.
$config['managesieve_host'] = 'localhost:4190';
$config['managesieve_usetls'] = true;
$config['managesieve_conn_options'] = ['ssl' => ['verify_peer' => false, 'verify_peer_name' => false]];
$config['managesieve_script_name'] = 'webmail';
$config['managesieve_vacation'] = 1;
// as RFC 5228 wants it; without, a rule for a folder with an umlaut in its name files nothing
$config['managesieve_mbox_encoding'] = 'UTF-8';
