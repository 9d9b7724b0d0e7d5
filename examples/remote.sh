#!/bin/sh
# A flow on another machine than the manager's, in plain shell with socat's TLS: as echo.sh, over FLOW_URL.
#
# FLOW_CA is the authority's certificate, its base64 in one line: socat wants it as a PEM file.

talk() {
    printf '{"type":"hello","contract":1,"flow_id":"%s","token":"%s"}\n' "$FLOW_ID" "$FLOW_TOKEN"
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

ca=$(mktemp)
trap 'kill "$child" 2>/dev/null; rm -f "$ca"; exit 0' TERM INT
{
    echo "-----BEGIN CERTIFICATE-----"
    printf '%s\n' "$FLOW_CA" | fold -w 64
    echo "-----END CERTIFICATE-----"
} >"$ca"

# The manager goes away when it restarts, and comes back.
while :; do
    socat "OPENSSL:${FLOW_URL#tls://},cafile=$ca,openssl-min-proto-version=TLS1.2" "EXEC:sh $0 talk" &
    child=$!
    wait "$child"
    sleep 2 &
    child=$!
    wait "$child"
done
