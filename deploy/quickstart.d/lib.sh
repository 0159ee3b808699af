# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Functions for starting a whole federation of real processes on loopback: used by deploy/quickstart
# and by the examples' run scripts. The caller sets `bin` (the programs) and `work` (an empty
# directory), and calls stop_all before it leaves, however it leaves.

: "${bin:?}" "${work:?}" # set by the caller
pids=()

say() { printf '%s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

stop_all() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    pids=()
}

# wait_for_line NODE TEXT: the rest of the first line of the node's log that holds TEXT.
wait_for_line() {
    local log=$work/$1/log text=$2 line
    for _ in $(seq 1 400); do
        line=$(grep -m 1 -F "$text" "$log" 2>/dev/null || true)
        if [ -n "$line" ]; then
            printf '%s\n' "${line##*"$text"}"
            return 0
        fi
        if grep -q -F 'cannot start' "$log" 2>/dev/null; then break; fi
        sleep 0.05
    done
    tail -n 5 "$log" >&2 || true
    fail "$1 did not say '$text' (its log: $log)"
}

# launch NODE PROGRAM: with $work/NODE/config.yaml, in the background.
launch() {
    "$bin/$2" --config "$work/$1/config.yaml" >"$work/$1/log" 2>&1 &
    pids+=($!)
}

# start_top NAME CHILDREN: the authority, the top, and an operator to talk to it.
start_top() {
    local name=$1 children=$2
    "$bin/consilium" pki init --dir "$work/authority" --name quickstart >/dev/null
    mkdir -p "$work/$name"
    "$bin/consilium" enroll --local --authority-dir "$work/authority" --name "$name" --role top \
        --data-dir "$work/$name/data" >/dev/null
    cat >"$work/$name/config.yaml" <<YAML
name: $name
data_dir: data
listen: 127.0.0.1:0
enroll_listen: 127.0.0.1:0
authority_dir: ../authority
children_min: $children
YAML
    launch "$name" consilium-hub
    top_port=$(wait_for_line "$name" 'listening on port ')
    enroll_port=$(wait_for_line "$name" 'enrolling on port ')
    "$bin/consilium" enroll --local --authority-dir "$work/authority" --name operator \
        --role operator --data-dir "$work/operator" >/dev/null
    export CONSILIUM_HUB=127.0.0.1:$top_port CONSILIUM_HUB_NAME=$name
    export CONSILIUM_IDENTITY=$work/operator
}

# enroll NODE ROLE: with a one-time token, over the network, as a real node would.
enroll() {
    mkdir -p "$work/$1"
    "$bin/consilium" token create --dir "$work/authority" --name "$1" --role "$2" \
        >"$work/$1/token"
    "$bin/consilium" enroll --address "127.0.0.1:$enroll_port" --token-file "$work/$1/token" \
        --name "$1" --role "$2" --data-dir "$work/$1/data" >/dev/null
    rm "$work/$1/token"
}

# start_hub NAME CHILDREN PARENT PARENT_PORT: prints nothing; its port is in ${hub_port[NAME]}.
declare -A hub_port
start_hub() {
    enroll "$1" hub
    cat >"$work/$1/config.yaml" <<YAML
name: $1
data_dir: data
listen: 127.0.0.1:0
children_min: $2
parent: {address: 127.0.0.1:$4, name: $3}
YAML
    launch "$1" consilium-hub
    # shellcheck disable=SC2034  # read by the caller
    hub_port[$1]=$(wait_for_line "$1" 'listening on port ')
}

# start_spoke NAME PARENT PARENT_PORT CSV SCHEMA
start_spoke() {
    enroll "$1" spoke
    cat >"$work/$1/config.yaml" <<YAML
name: $1
data_dir: data
parent: {address: 127.0.0.1:$3, name: $2}
data: {csv: $4, schema: $5}
device: cpu
threads: 1
policy: {accept: all}
YAML
    launch "$1" consilium-spoke
}
