# Managed by mailwright: changes are overwritten.
require ["duplicate", "envelope", "index", "variables"];
# What Postfix delivers again, since it was killed before it could note the first time, is known by Postfix's own
# Received line, which holds the queue id: the second, below Dovecot's. What a sender writes comes further down.
# By two aliases a message may come to the same address twice.
if allof (header :index 2 :matches "received" "* (Postfix*", header :index 2 :matches "received" "*") {
    set "received" "${1}";
    if envelope :matches "to" "*" { set "to" "${1}"; }
    if header :index 1 :matches "x-original-to" "*" { set "original" "${1}"; }
    if duplicate :handle "deliver-once" :seconds 900 :uniqueid "${received} ${to} ${original}" {
        discard;
        stop;
    }
}
