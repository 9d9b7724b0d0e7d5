#!/bin/sh
# A flow that gives every message back, in plain shell with socat.
#
# socat connects and runs this same file once more ("talk") with the socket as its input and output.
# A message's line ends with its body, so the shell can cut it out: {"type":"message","id":"…","body":{…}}

talk() {
    printf '{"type":"ready"}\n'
    while IFS= read -r line; do
        case $line in
        '{"type":"message"'*)
            id=${line#*'"id":"'}
            id=${id%%'"'*}
            body=${line#*'"body":'}
            body=${body%'}'}
            printf '{"type":"reply","to":"%s","body":{"echo":%s}}\n' "$id" "$body"
            ;;
        esac
    done
}

if [ "$1" = talk ]; then
    talk
    exit
fi

# A shell that is the first process of a container has to ask for SIGTERM.
trap 'kill "$child" 2>/dev/null; exit 0' TERM INT

# The socket goes away when the manager restarts, and comes back.
while :; do
    socat "UNIX-CONNECT:$FLOW_SOCKET" "EXEC:sh $0 talk" 2>/dev/null &
    child=$!
    wait "$child"
    sleep 0.5 &
    child=$!
    wait "$child"
done
