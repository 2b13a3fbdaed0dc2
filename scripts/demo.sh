#!/usr/bin/env bash
# The demo: ingests the bundled text, trains in five ways, and writes a report on forgetting.
# Single-threaded jobs run side by side, one for each core.
# Usage: scripts/demo.sh [output folder, relative to the repository; default demo-out]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

out=${1:-demo-out}
store=$out/store
marker=$out/.perennial-demo

# The demo is configured by its two files alone: variables of this shell for the programs are removed.
for name in "${!PERENNIAL_@}"; do unset "$name"; done

if [ -e "$out" ] && [ ! -f "$marker" ] && [ -n "$(ls -A "$out")" ]; then
    echo "error: \`$out\` exists and is not the folder of a demo" >&2
    echo "  hint: remove it, or name another: scripts/demo.sh FOLDER" >&2
    exit 2
fi

# Cargo reports where it puts the programs: a setting of yours may name another folder than target/debug.
bin=$(cargo build --workspace --bins --message-format=json-render-diagnostics |
    sed -n 's:.*"executable"\:"\([^"]*\)/perennial-train".*:\1:p')

SECONDS=0 # the time of the demo, without the build
mkdir -p "$out"
touch "$marker" # stays while the rest is deleted, so that a killed demo can be run again
find "$out/" -mindepth 1 ! -name .perennial-demo -delete
mkdir "$out/logs"

# However the demo ends, its jobs end too: they would write into the folder of the next demo.
trap 'jobs -pr | xargs -r kill; wait' EXIT
trap 'exit 130' INT TERM HUP

echo "== ingest"
"$bin/perennial-ingest" --log warn --config demo/ingest.toml --store "$store" run --once
"$bin/perennial-ingest" --log warn --config demo/ingest.toml --store "$store" check

declare -A running=() # process of a running job -> its name
job() { # name, settings of the batches ..
    local name=$1
    shift
    # `exec`: the background job is the process of the program, so a kill reaches it.
    exec "$bin/perennial-train" --config demo/train.toml --store "$store" \
        --set job.name="$name" --set job.folder="$out/jobs/$name" "$@" run >"$out/logs/$name.log" 2>&1
}

# At equal tokens: a run with replay share r reads a share 1 - r of the new text.
start() { # name
    case $1 in
        none) job none --set 'replay.mix={}' & ;;
        replay-25) job replay-25 --set 'replay.mix.main=0.25' --set 'replay.new_text.keep=0.75' & ;;
        replay-10) job replay-10 --set 'replay.mix.main=0.1' --set 'replay.new_text.keep=0.9' & ;;
        herding-10) job herding-10 --set 'replay.mix.herd=0.1' --set 'replay.new_text.keep=0.9' & ;;
        mixed) job mixed --set 'replay.mix={}' --set 'replay.new_text.order=permuted' & ;;
    esac
    running[$!]=$1
}

# Prints the newest line of metrics of each job.
progress() {
    local name line
    for name in "$@"; do
        line=$(tail -n 1 "$out/jobs/$name/metrics.jsonl" 2>/dev/null || true)
        [ -n "$line" ] || continue
        printf '  %s: ' "$name"
        sed -E 's/^\{"step":([0-9]+),"tokens":([0-9]+),"loss":([0-9.]{1,5})[^,]*,.*"tokens_per_second":([0-9]+).*$/step \1, \2 tokens, loss \3, \4 tokens\/s/' <<<"$line"
    done
}

finish() { # waits for one job, and prints the progress of all until then
    local pid name code
    while true; do
        for pid in "${!running[@]}"; do
            kill -0 "$pid" 2>/dev/null && continue
            name=${running[$pid]}
            unset "running[$pid]"
            code=0
            wait "$pid" || code=$?
            if [ "$code" -ne 0 ]; then
                echo "error: job $name failed with exit code $code:" >&2
                tail -n 5 "$out/logs/$name.log" >&2
                exit "$code"
            fi
            echo "  $name: $(tail -n 1 "$out/logs/$name.log")"
            return
        done
        progress "${running[@]}"
        sleep 10 & wait $! || true
    done
}

echo "== train: no replay, replay 25 %, replay 10 %, herding 10 %, all mixed (the ceiling); logs in $out/logs"
cores=$(nproc)
for name in none replay-25 replay-10 herding-10 mixed; do
    [ "${#running[@]}" -lt "$cores" ] || finish
    start "$name"
done
while [ "${#running[@]}" -gt 0 ]; do finish; done

echo "== report"
"$bin/perennial-ingest" --log warn --config demo/ingest.toml --store "$store" check
"$bin/perennial-train" --log warn --store "$store" report --out "$out" \
    --run "floor:$out/jobs/none:no replay" \
    --run "method:$out/jobs/replay-10:replay 10 %" \
    --run "method:$out/jobs/herding-10:herding 10 %" \
    --run "method:$out/jobs/replay-25:replay 25 %" \
    --run "ceiling:$out/jobs/mixed:all mixed"
echo "== done in $SECONDS s: open $out/report.html"
