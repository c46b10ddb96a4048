<?php
// Managed by mailwright: changes are overwritten.
$config['managesieve_host'] = 'localhost:4190';
$config['managesieve_usetls'] = true;
$config['managesieve_conn_options'] = ['ssl' => ['verify_peer' => false, 'verify_peer_name' => false]];
$config['managesieve_script_name'] = 'webmail';
$config['managesieve_vacation'] = 1;
