<?php
// Managed by mailwright: changes are overwritten.
$config['password_driver'] = 'sql';
$config['password_confirm_current'] = true;
$config['password_minimum_length'] = 10;
$config['password_algorithm'] = 'hash-argon2id';
$config['password_algorithm_prefix'] = '{ARGON2ID}';
$config['password_algorithm_options'] = ['memory_cost' => 19456, 'time_cost' => 2, 'threads' => 1];
$config['password_db_dsn'] = 'pgsql://roundcube@unix(/run/postgresql)/mailwright';
// a row means the password was changed
$config['password_query'] = 'SELECT 1 WHERE directory.change_password(%u, %P)';
