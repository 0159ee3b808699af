# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Functions for starting a whole federation of real processes on loopback: used by deploy/quickstart
# and by the examples' run scripts. The caller sets `bin` (the programs) and `work` (a directory),
# and calls stop_all before it leaves, however it leaves. In a directory where a federation lived
# before, every node goes on with the identity and the data directory it has there.

: "${bin:?}" "${work:?}" # set by the caller

# Every key of a node can be set by the environment: what is set there is not meant for these.
unset "${!CONSILIUM_@}"
export LC_ALL=C # decimal points

start_s=60 # for a process to come up
run_s=600  # for a run to end
declare -A pid_of=() hub_port=()

say() { printf '%s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

need_programs() {
    local program
    for program in consilium consilium-hub consilium-spoke consilium-baseline; do
        [ -x "$bin/$program" ] ||
            fail "$bin/$program is not there: cmake --preset release && cmake --build build"
    done
}

# Asks everything to stop; who has not after ten seconds is killed.
stop_all() {
    local deadline=$((SECONDS + 10))
    [ ${#pid_of[@]} -gt 0 ] || return 0
    kill "${pid_of[@]}" 2>/dev/null || true
    while [ -n "$(jobs -pr)" ] && [ $SECONDS -lt $deadline ]; do sleep 0.05; done
    kill -KILL "${pid_of[@]}" 2>/dev/null || true
    wait
    pid_of=()
}

# wait_for_line NODE TEXT: prints the rest of the first line of the node's log that holds TEXT.
wait_for_line() {
    local log=$work/$1/log text=$2 line runs=true deadline=$((SECONDS + start_s))
    while $runs && [ $SECONDS -lt $deadline ]; do
        kill -0 "${pid_of[$1]}" 2>/dev/null || runs=false
        line=$(grep -m 1 -F "$text" "$log" || true)
        if [ -n "$line" ]; then
            printf '%s\n' "${line##*"$text"}"
            return 0
        fi
        sleep 0.05
    done
    tail -n 5 "$log" >&2
    $runs || fail "$1 has ended instead of saying '$text' (its log: $log)"
    fail "$1 did not say '$text' within $start_s s (its log: $log)"
}

# launch NODE PROGRAM: with $work/NODE/config.yaml, in the background. The kernel stops it should
# this shell be killed before it can.
launch() {
    : >"$work/$1/log" # before anyone looks into it: an earlier start's log names other ports
    setpriv --pdeathsig TERM "$bin/$2" --config "$work/$1/config.yaml" >>"$work/$1/log" 2>&1 &
    pid_of[$1]=$!
}

enrolled() { [ -e "$work/$1/identity/cert.pem" ]; }

# start_top NAME CHILDREN: the authority, the top, and an operator to talk to it.
start_top() {
    local name=$1 children=$2
    [ -e "$work/authority" ] ||
        "$bin/consilium" pki init --dir "$work/authority" --name quickstart >/dev/null
    mkdir -p "$work/$name"
    enrolled "$name/data" ||
        "$bin/consilium" enroll --local --authority-dir "$work/authority" --name "$name" \
            --role top --data-dir "$work/$name/data" >/dev/null
    cat >"$work/$name/config.yaml" <<YAML
name: $name
data_dir: data
listen: 127.0.0.1:0
enroll_listen: 127.0.0.1:0
authority_dir: ../authority
children_min: $children
retention: {updates_days: 30}
YAML
    launch "$name" consilium-hub
    top_port=$(wait_for_line "$name" 'listening on port ')
    enroll_port=$(wait_for_line "$name" 'enrolling on port ')
    enrolled operator ||
        "$bin/consilium" enroll --local --authority-dir "$work/authority" --name operator \
            --role operator --data-dir "$work/operator" >/dev/null
    export CONSILIUM_HUB=127.0.0.1:$top_port CONSILIUM_HUB_NAME=$name
    export CONSILIUM_IDENTITY=$work/operator
}

# enroll NODE ROLE: with a one-time token, over the network, as a real node would.
enroll() {
    mkdir -p "$work/$1"
    if enrolled "$1/data"; then return; fi
    (umask 077 && "$bin/consilium" token create --dir "$work/authority" --name "$1" --role "$2" \
        --replace >"$work/$1/token")
    "$bin/consilium" enroll --address "127.0.0.1:$enroll_port" --token-file "$work/$1/token" \
        --name "$1" --role "$2" --data-dir "$work/$1/data" >/dev/null
    rm "$work/$1/token"
}

# start_hub NAME CHILDREN PARENT PARENT_PORT: its own port is in ${hub_port[NAME]} then.
start_hub() {
    enroll "$1" hub
    cat >"$work/$1/config.yaml" <<YAML
name: $1
data_dir: data
listen: 127.0.0.1:0
children_min: $2
retention: {updates_days: 30}
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

# run_plan PLAN OUT: runs it to its end, follows it into OUT (one JSON object a line, a line a
# change), and sets `run` to its id. Fails as soon as a node is lost.
run_plan() {
    local node ended status=0
    run=$("$bin/consilium" run start "$1")
    timeout "$run_s" "$bin/consilium" run watch "$run" --json >"$2" &
    pid_of[watch]=$!
    wait -n -p ended "${pid_of[@]}" || status=$?
    for node in "${!pid_of[@]}"; do
        [ "${pid_of[$node]}" = "$ended" ] || continue
        [ "$node" = watch ] && continue
        tail -n 5 "$work/$node/log" >&2
        fail "$node has ended in the middle of run $run (its log: $work/$node/log)"
    done
    unset 'pid_of[watch]'
    [ $status -eq 0 ] || fail "run $run did not complete (logs: $work/*/log)"
}
