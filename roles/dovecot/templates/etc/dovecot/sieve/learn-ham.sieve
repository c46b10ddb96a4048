# Managed by mailwright: changes are overwritten.
require ["vnd.dovecot.pipe", "copy", "imapsieve", "environment", "variables"];
if environment :is "imap.mailbox" "Trash" {
    stop;
}
pipe :copy "learn" ["ham"];
