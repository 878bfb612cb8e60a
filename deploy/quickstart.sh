#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# quickstart.sh - from a fresh clone to answers: installs, builds, fetches a small model, starts one prefill node and one
# decode node on this machine, asks two questions about a document, and ends what it started.
#
#   deploy/quickstart.sh            does all of that
#   deploy/quickstart.sh --keep     leaves the nodes running and prints how to call them
set -u -o pipefail
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

keep=
for argument in "$@"; do
    case $argument in
    --keep) keep=yes ;;
    --help | -h)
        sed -n '3,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *) echo "quickstart.sh: unknown argument $argument; there is --keep and --help" >&2; exit 2 ;;
    esac
done

press='snapkv:window=64 | adakv | ratio=0.5'
document=$root/deploy/quickstart/observatory.txt
questions=("What does a ticket cost?" "When does the last cable car go down?")
folder=$root/build/quickstart
bin=$root/build/release/bin
prefill_pid= decode_pid= running=

# Runs a command that takes long, so that a signal is acted upon at once and not when the command is done.
run()
{
    local code
    setsid "$@" &
    running=$!
    wait "$running"
    code=$?
    running=
    return $code
}

# Ends the nodes: politely, then not. Runs whatever happens, also on Ctrl-C.
end_nodes()
{
    local pid
    [[ -n $running ]] && kill -TERM -- "-$running" 2> /dev/null
    for pid in $decode_pid $prefill_pid; do
        kill -TERM "$pid" 2> /dev/null
    done
    for pid in $decode_pid $prefill_pid; do
        for _ in {1..50}; do
            kill -0 "$pid" 2> /dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2> /dev/null
        wait "$pid" 2> /dev/null
    done
    prefill_pid= decode_pid=
}

at_exit()
{
    end_nodes
    steps_hand_over
}
trap at_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# address_of NODE PID: waits for the node's `serving HOST:PORT` line and prints the address.
address_of()
{
    local address
    for _ in {1..600}; do
        address=$(sed -n 's/^serving //p' "$folder/$1.out")
        [[ -n $address ]] && { echo "$address"; return 0; }
        kill -0 "$2" 2> /dev/null || break
        sleep 0.1
    done
    tail -n 5 "$folder/$1.log" >&2
    return 1
}

# The decode node serves before it has met its prefill node.
wait_until_ready()
{
    for _ in {1..300}; do
        "$bin/platen" ask --server "$1" --context Hello --max-new-tokens 0 --timeout 5 > /dev/null 2>&1 && return 0
        kill -0 "$decode_pid" 2> /dev/null || return 1
        sleep 0.1
    done
    return 1
}

steps_install "${packages_build[@]}" "${packages_model[@]}"
mkdir -p "$folder"
steps_build release
steps_model || die "the model could not be had; where there is no network: PLATEN_MODEL=FILE.gguf deploy/quickstart.sh"

say "starting a prefill node and a decode node on 127.0.0.1"
: > "$folder/prefill.out"
: > "$folder/decode.out"
setsid "$bin/prefill-node" --model "$model" --listen 127.0.0.1:0 > "$folder/prefill.out" 2> "$folder/prefill.log" &
prefill_pid=$!
prefill=$(address_of prefill "$prefill_pid") || die "the prefill node did not start; build/quickstart/prefill.log tells why"
setsid "$bin/decode-node" --model "$model" --listen 127.0.0.1:0 --prefill "$prefill" \
    > "$folder/decode.out" 2> "$folder/decode.log" &
decode_pid=$!
decode=$(address_of decode "$decode_pid") || die "the decode node did not start; build/quickstart/decode.log tells why"
wait_until_ready "$decode" || die "the decode node does not answer; build/quickstart/decode.log tells why"

say "asking about $(basename "$document"), pressed with: $press"
ask=("$bin/platen" ask --server "$decode" --context-file "$document" --press "$press" --max-new-tokens 40)
for question in "${questions[@]}"; do
    ask+=(--question "$question")
done
run "${ask[@]}" || die "the question was not answered"

if [[ -n $keep ]]; then
    say "the nodes go on: prefill node $prefill (process $prefill_pid), decode node $decode (process $decode_pid)"
    echo "ask:  $(printf %q "$bin/platen") ask --server $decode --context-file FILE --question TEXT --press '$press'"
    echo "end:  kill $decode_pid $prefill_pid"
    prefill_pid= decode_pid=
fi
