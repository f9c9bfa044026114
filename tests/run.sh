#!/usr/bin/env bash
# Runs the tests on one rank, then on each number of ranks in RANKS; arguments go to the run on one
# rank only, because pytest-xdist (-n) cannot be used under mpiexec. Ends with every run's summary.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 1

PYTHON=${PYTHON:-python}
RANKS=${RANKS-"2 3"}
LOGS=${LOGS:-output/tests}
# For all runs together, in minutes: with no kernel compiled and other jobs on the machine.
LIMIT=${LIMIT:-55}
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 LOGS
export OMPI_MCA_hwloc_base_binding_policy=none # ranks are not tied to one core

mkdir -p "$LOGS"
rm -f "$LOGS"/*.log
failed=()
took=()

run() { # ranks, command
    local ranks=$1 start=$SECONDS left=$((LIMIT * 60 - SECONDS)) status
    shift
    echo "== $ranks rank(s)"
    # At the limit each process says where it stands (tests/conftest.py).
    timeout --kill-after=30s $((left > 60 ? left : 60)) "$@" 2>&1 | tee "$LOGS/ranks$ranks.log"
    status=${PIPESTATUS[0]}
    took+=("$(((SECONDS - start + 59) / 60)) min")
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        echo "== ended by the limit of $LIMIT minutes for all runs" | tee -a "$LOGS/ranks$ranks.log"
    fi
    [ "$status" -eq 0 ] || failed+=("$ranks")
    return "$status"
}

run 1 "$PYTHON" -m pytest --durations=20 -m "parallel[1]" "$@"

# Rank 0 writes to the terminal, the others to a file each.
# shellcheck disable=SC2016
one_rank='rank=$OMPI_COMM_WORLD_RANK
if [ "$rank" = 0 ]; then exec "$@"; fi
exec "$@" > "$LOGS/ranks$OMPI_COMM_WORLD_SIZE-rank$rank.log" 2>&1'

# Ranks that wait for another leave it the processor. One rank alone must not: beside other jobs it
# would give its time away at each of MUMPS's many questions for messages.
export OMPI_MCA_mpi_yield_when_idle=1
# A rank that waits for one that has failed would wait for ever: a test's time limit ends the run.
for n in $RANKS; do
    if ! run "$n" mpiexec -n "$n" bash -c "$one_rank" rank "$PYTHON" -m pytest -v \
        -p no:cacheprovider --color=no --durations=10 -o faulthandler_exit_on_timeout=true \
        -m "parallel[$n]"; then
        for log in "$LOGS/ranks$n"-rank*.log; do
            [ -e "$log" ] && echo "-- end of $log" && tail -n 60 "$log"
        done
    fi
done

echo "== summary"
for n in 1 $RANKS; do
    echo "$n rank(s): $(grep -E '^=+ .* in [0-9.]+m?s' "$LOGS/ranks$n.log" | tail -n 1), ${took[0]}"
    took=("${took[@]:1}")
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED on ${failed[*]} rank(s); logs of all ranks: $LOGS"
    exit 1
fi
