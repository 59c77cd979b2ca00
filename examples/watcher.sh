#!/usr/bin/env bash
# A watcher in 20 lines: watcher.sh AGENT COMMAND...; wants EVENTLOG_URL, EVENTLOG_TOKEN (kind watcher), curl and jq.
export EVENTLOG_URL EVENTLOG_TOKEN_FILE; EVENTLOG_TOKEN_FILE=$(mktemp); trap 'rm -f "$EVENTLOG_TOKEN_FILE"' EXIT
agent=$1; shift; token=$EVENTLOG_TOKEN; unset EVENTLOG_TOKEN
outcomes=([0]=ok [75]=not_started [124]=timeout [126]=not_started [127]=not_started [137]=timeout) # else failed
api() { curl -sS -H @<(echo "Authorization: Bearer $token") -H 'Content-Type: application/json' "$@"; }
field() { jq -r "$1" <<<"$answer"; }
now() { cut -d. -f1 /proc/uptime; } # since boot, a suspended machine's time included
new_key() { key=$(cat /proc/sys/kernel/random/uuid); } # good for one wake, and kept until it was granted
ask() { # true: a wake was granted and is over, so ask again
  asked=$(now); answer=$(api -f -m 10 "$EVENTLOG_URL/api/wakes" -d "{\"key\":\"$key\",\"agent\":\"$agent\"}" | jq -cs '.[0] // {}' || echo '{}')
  next=$((asked + $(field '.retry_after_s // 5 | ceil'))); if [ "$(field .why)" = closed ]; then new_key; fi
  if [ "$(field .wake)" = null ]; then return 1; fi; field .wake.token >"$EVENTLOG_TOKEN_FILE"
  export $(field '.wake | "WAKE_AGENT=\(.agent) WAKE_ID=\(.id) WAKE_ATTEMPT=\(.attempt) WAKE_AFTER=\(.after) WAKE_THROUGH=\(.through)"')
  if (($(now) - asked + $(field '.age_s | ceil') > 28)); then code=75; else # it may start within 30 s of the asking
    field '.wake | {wake: del(.token, .messages, .truncated), messages, truncated}' | timeout -k 10 300 "$@"; code=$?; fi
  report="{\"key\":\"$key\",\"outcome\":\"${outcomes[code]-failed}\",\"exit_code\":$code}"
  until api -m 10 -X PATCH "$EVENTLOG_URL/api/wakes/$WAKE_ID" -d "$report" | jq -es "$over" >/dev/null; do sleep 2; done; new_key; }
over='.[0] | .outcome or (.code | IN("unknown_wake", "already_finished", "superseded"))'; new_key
while next=0; do while read -r line; do # a stream that stands says something every second; first of all, as it begins
  if [[ $line == data:* ]] || (($(now) >= next)); then while ask "$@"; do :; done; fi
done < <(api -f -N -y 15 -Y 1 "$EVENTLOG_URL/api/stream?agent=$agent&watcher=$HOSTNAME&heartbeat=1"); sleep 2; done
