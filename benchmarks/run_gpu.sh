#!/usr/bin/env bash
# Everything that only a GPU can show, from the repository root, without a network:
#
#     benchmarks/run_gpu.sh [--cpu-dry-run] [OUTPUT]
#
# the conformance suite on every CUDA backend that is here, the GPU benchmark, the training run; then a table. OUTPUT
# (else $OUT, else ./gpu-evidence) receives evidence.json and what the parts wrote; nothing is written elsewhere and
# nothing is installed. PYTHON names the interpreter (default python3), XENT_COMMIT the commit of a tree without history.
# --cpu-dry-run takes the same path with tiny sizes on NumPy.
# Exit code: 0 all parts passed; 1 a part failed or was stopped (later parts still run); 2 cannot start; 3 no CUDA backend.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

dry=
if [ "${1-}" = --cpu-dry-run ]; then dry=--cpu; shift; fi
if [ $# -gt 1 ] || [[ "${1-}" == -* ]]; then echo "usage: benchmarks/run_gpu.sh [--cpu-dry-run] [OUTPUT]" >&2; exit 2; fi
out=${1:-${OUT:-gpu-evidence}}
python=${PYTHON:-python3}

# The whole run stays below ten minutes; a part's own limit is its third argument.
deadline=$((SECONDS + 560))

export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
for module in numpy array_api_compat; do
    if ! "$python" -c "import $module" 2>/dev/null; then
        echo "run_gpu.sh: $python cannot import $module; carry it as a wheel and name its folder in PYTHONPATH" >&2
        exit 2
    fi
done
if ! mkdir -p "$out/scratch" || ! out=$(cd "$out" && pwd); then
    echo "run_gpu.sh: cannot write to $out" >&2
    exit 2
fi

# Compilers' and libraries' caches, which would otherwise go to the home folder and the repository.
scratch=$out/scratch
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch XDG_CACHE_HOME=$scratch CUDA_CACHE_PATH=$scratch/cuda CUPY_CACHE_DIR=$scratch/cupy \
    TRITON_CACHE_DIR=$scratch/triton TORCHINDUCTOR_CACHE_DIR=$scratch/inductor NUMBA_CACHE_DIR=$scratch/numba \
    MPLCONFIGDIR=$scratch/matplotlib HYPOTHESIS_STORAGE_DIRECTORY=$scratch/hypothesis
# JAX would take three quarters of the memory that the other libraries need.
export XLA_PYTHON_CLIENT_PREALLOCATE=false

record=$out/evidence.json
log=$out/run.log
: >"$log"

if ! found=$("$python" -m benchmarks.evidence backends $dry 2>>"$log"); then
    echo "run_gpu.sh: looking for CUDA backends failed: $(tail -n 1 "$log")" >&2
    exit 2
fi
mapfile -t backends < <(printf '%s' "$found" | sed '/^$/d')
if [ ${#backends[@]} -eq 0 ]; then
    echo "run_gpu.sh: no CUDA backend here: neither CuPy nor torch nor JAX sees a GPU" >&2
    exit 3
fi

commit=${XENT_COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
if [ -z "${XENT_COMMIT-}" ] && [ "$commit" != unknown ] && [ -n "$(git --no-optional-locks status --porcelain 2>/dev/null)" ]; then
    commit+=-dirty
fi
rm -f "$record"
if ! "$python" -m benchmarks.evidence begin "$record" --commit "$commit" $dry "${backends[@]}"; then
    echo "run_gpu.sh: cannot write $record" >&2
    exit 2
fi
echo "backends: ${backends[*]}; writing to $out"

# part NAME RESULT LIMIT COMMAND...: run it, log it, record it. An interrupt first, so that pytest still writes its report.
part() {
    local name=$1 result=$2 limit=$3 status began
    shift 3
    local left=$((deadline - SECONDS))
    if [ "$left" -lt "$limit" ]; then limit=$((left > 1 ? left : 1)); fi
    rm -f "$result"
    echo "== $name (at most $limit s): $*" | tee -a "$log"
    began=$SECONDS
    timeout --signal=INT --kill-after=10 "$limit" "$@" >>"$log" 2>&1
    status=$?
    # Killed past its limit, because it did not heed the interrupt; killed before, something else did it.
    if [ "$status" -eq 137 ] && [ $((SECONDS - began)) -ge "$limit" ]; then status=124; fi
    if ! "$python" -m benchmarks.evidence part "$record" "$name" --result "$result" --status "$status" \
        --seconds $((SECONDS - began)) --limit "$limit" --command-line "$(printf '%q ' "$@")"; then
        echo "   $name failed; see $log"
        failed=1
    fi
}
failed=0

conformance() {
    local backend=$1 limit=$2
    local -a narrowed=()
    if [ -n "$dry" ]; then narrowed=(-k "test_reductions and $backend-float32-eager"); fi
    # What warns of a later version is not this machine's to decide; every other warning stays an error.
    XENT_REQUIRE_BACKENDS=$backend part "conformance-$backend" "$out/conformance-$backend.xml" "$limit" \
        "$python" -m pytest conformance --backend "$backend" -q -p no:cacheprovider -p no:benchmark \
        -W default::DeprecationWarning -W default::PendingDeprecationWarning -W default::FutureWarning \
        --junitxml "$out/conformance-$backend.xml" "${narrowed[@]}"
}

measured=()
trained=(--backend numpy)
for backend in "${backends[@]}"; do
    if [ "$backend" != jax ]; then
        conformance "$backend" 140
        measured+=(--backend "$backend")
        if [ "$backend" != numpy ]; then trained+=(--backend "$backend"); fi
    fi
done

if [ ${#measured[@]} -gt 0 ]; then
    sizes=(--seconds 130)
    if [ -n "$dry" ]; then sizes+=(--vocabularies 64 300 --logits-bytes 40000); fi
    part benchmarks "$out/benchmarks.json" 150 "$python" -m benchmarks.gpu "$out/benchmarks.json" "${measured[@]}" "${sizes[@]}"
fi

steps=()
if [ -n "$dry" ]; then steps=(--steps 2 --vocabulary 300); fi
part train "$out/train.json" 120 "$python" -c "import sys; from xent.cli import main; sys.exit(main())" train \
    "${trained[@]}" "${steps[@]}" --picture "$out/loss.png" --json "$out/train.json"

# Last, because compiling every cell of the matrix takes longest.
for backend in "${backends[@]}"; do
    if [ "$backend" = jax ]; then conformance jax 300; fi
done

echo
"$python" -m benchmarks.evidence table "$record" || failed=1
exit "$failed"
