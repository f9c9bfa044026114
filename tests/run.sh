#!/usr/bin/env bash
# Runs the tests on one rank, then on each number of ranks in RANKS; arguments go to the run on one
# rank only, because pytest-xdist (-n) cannot be used under mpiexec. Ends with every run's summary.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1

PYTHON=${PYTHON:-python}
RANKS=${RANKS-"2 3"}
LOGS=${LOGS:-output/tests}
# A rank that waits for one that has failed would wait for ever.
LIMIT=${LIMIT:-35m}
export PYTHONPATH=$PWD LOGS

mkdir -p "$LOGS"
rm -f "$LOGS"/*.log
failed=()

report() { # ranks, exit status
    [ "$2" -eq 0 ] || failed+=("$1")
}

echo "== 1 rank"
timeout "$LIMIT" "$PYTHON" -m pytest -m "parallel[1]" "$@" | tee "$LOGS/ranks1.log"
report 1 $?

# Rank 0 writes to the terminal, the others to a file each.
# shellcheck disable=SC2016
one_rank='rank=$OMPI_COMM_WORLD_RANK
if [ "$rank" = 0 ]; then exec "$@"; fi
exec "$@" > "$LOGS/ranks$OMPI_COMM_WORLD_SIZE-rank$rank.log" 2>&1'

for n in $RANKS; do
    echo "== $n ranks"
    timeout "$LIMIT" mpiexec -n "$n" bash -c "$one_rank" rank \
        "$PYTHON" -m pytest -p no:cacheprovider --color=no -m "parallel[$n]" \
        | tee "$LOGS/ranks$n.log"
    status=$?
    report "$n" "$status"
    if [ "$status" -ne 0 ]; then
        for log in "$LOGS/ranks$n"-rank*.log; do
            [ -e "$log" ] && echo "-- end of $log" && tail -n 40 "$log"
        done
    fi
done

echo "== summary"
for n in 1 $RANKS; do
    echo "$n rank(s): $(grep -E '^=+ .* in [0-9.]+m?s' "$LOGS/ranks$n.log" | tail -n 1)"
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED on ${failed[*]} rank(s); logs of all ranks: $LOGS"
    exit 1
fi
