#!/bin/sh
# Every live route, by curl: examples/curl.sh [server] [session]
# The session is one that a browser or examples/say.py has open; by default the first that the server lists.
# VIVACE_API_TOKEN is sent where it is set.
set -eu

server=${1:-http://127.0.0.1:8010}

ask() {
    method=$1 path=$2
    shift 2
    printf '\n%s %s\n' "$method" "$path" >&2
    curl -sS -w "\n" -X "$method" -H "Authorization: Bearer ${VIVACE_API_TOKEN:-}" "$@" "$server$path"
}

say() { ask POST "$1" -H 'Content-Type: application/json' -d "$2"; }

ask GET /healthz
ask GET /readyz
ask GET /api/avatars
ask GET /api/webrtc
ask GET /api/admin/config
session=${2:-$(ask GET /api/admin/sessions | sed -n 's/.*"sessions": \[{"sessionid": \([0-9]*\).*/\1/p')}
if [ -z "$session" ]; then
    printf '\nNobody is connected: open %s/ and press Start, then run this again.\n' "$server"
    exit
fi

say /human "{\"sessionid\": $session, \"type\": \"echo\", \"text\": \"One, two, three, four, five, six, seven.\"}"
sleep 1
say /is_speaking "{\"sessionid\": $session}"
say /interrupt_talk "{\"sessionid\": $session}"
say /human "{\"sessionid\": $session, \"type\": \"chat\", \"text\": \"What is 12 x 3?\", \"interrupt\": true}"
say /set_audiotype "{\"sessionid\": $session, \"audiotype\": 0, \"reinit\": true}"
ask GET "/get_audiotype?sessionid=$session"
say /record "{\"sessionid\": $session, \"type\": \"start_record\"}"
sleep 2
say /record "{\"sessionid\": $session, \"type\": \"end_record\"}"
ask GET "/record/$session" -o record.mp4
ask POST /humanaudio -F "sessionid=$session" -F file=@record.mp4
printf '\n\nFive seconds of events:\n'
ask GET "/sse?sessionid=$session" -N -m 5 || true
