# Sourced: a server that is measured. Wants `folder` (where it keeps what it has) and `bin` (where the programs are).

# Arguments are the server's. Sets server (its process), http, mqtt and mqtts (its addresses) and IOT_TOKEN.
start_server() {
    "$bin/iot-server" --data "$folder/data" --mqtt 127.0.0.1:0 --mqtts 127.0.0.1:0 --ws off --wss off --http 127.0.0.1:0 \
        --log warn "$@" >"$folder/banner" 2>"$folder/log" &
    server=$!
    until grep -q '^ready' "$folder/banner"; do kill -0 $server; sleep 0.1; done
    http=$(grep -oE 'http://127[0-9.:]+' "$folder/banner" | head -1)
    mqtt=$(grep -oE 'mqtt://127[0-9.:]+' "$folder/banner" | head -1)
    mqtts=$(grep -oE 'mqtts://127[0-9.:]+' "$folder/banner" | head -1 | cut -c9-)
    local password
    # Once in the life of a data folder.
    password=$(grep -oE "admin:[a-z0-9]+" "$folder/banner" | head -1 | cut -d: -f2 || true)
    [[ -n $password ]] || return 0
    IOT_TOKEN=$(curl -fsS -u "admin:$password" -H 'Accept: text/plain' -X POST "$http/v1/sign-in")
    export IOT_TOKEN
}
api() { curl -fsS -H "Authorization: Bearer $IOT_TOKEN" -H 'Content-Type: application/json' "$@"; }
rss() { awk '/^VmRSS/ {print $2 * 1024}' /proc/$server/status; }
cpu() { awk '{print $14 + $15}' /proc/$server/stat; }

# So many units of the product `bench`.
units() {
    api -X PUT "$http/v1/products/bench" -d '{"name": "bench"}' >/dev/null
    { echo device_id,p_code; for n in $(seq "$1"); do echo "bench-$n,BENCH-$n"; done; } |
        curl -fsS -H "Authorization: Bearer $IOT_TOKEN" -H 'Content-Type: text/csv' --data-binary @- \
            "$http/v1/products/bench/units" >/dev/null
}
token() {
    api -X POST "$http/v1/claim-tokens" -d "{\"product\": \"bench\", \"uses\": $1, \"assign\": true}" |
        sed 's/.*"token":"\([^"]*\)".*/\1/'
}
online() { api "$http/v1/status" | sed 's/.*"online":\([0-9]*\).*/\1/'; }
# Claims so many units into a folder and lets them report every 5 s, in the background.
fleet() { # folder, count
    IOT_CLAIM_TOKEN=$(token "$2") "$bin/iot-device" --http "$http" --mqtts "$mqtts" --ca "$folder/data/ca.pem" \
        --count "$2" --state "$folder/$1" --interval-ms 5000 >"$folder/$1.out" 2>&1 &
}
# Claims so many units into a folder, and ends them: others use their keys.
claimed() { # folder, count
    local before
    before=$(online)
    fleet "$1" "$2"
    local devices=$!
    until [ "$(online)" -ge $((before + $2)) ]; do sleep 0.2; done
    kill $devices
    wait $devices || true
}
