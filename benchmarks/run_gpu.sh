#!/usr/bin/env bash
# Everything that only a GPU can show, without a network:
#
#     benchmarks/run_gpu.sh [--cpu-dry-run] [--only PART,...] [--seconds N] [OUTPUT]
#
# The parts, the most telling first: checks, conformance, benchmarks, sanitizer, tests, train, jax; then a table.
# OUTPUT (else $OUT, else gpu-evidence in the repository) receives evidence.json, run.log and loss.png; nothing is written elsewhere and
# nothing is installed. PYTHON names the interpreter (default python3), CROSSENT_COMMIT the commit of a tree without history.
# --only runs these parts alone (checks, conformance and benchmarks also as checks-cupy, benchmarks-torch-cuda, ...) and
#   adds them to the record that is in OUTPUT, if it is of the same tree on the same machine. Without it, a new record.
# --seconds is the time for all parts together (default 560): what does not fit is named as not reached.
# --cpu-dry-run takes the same path with tiny sizes on NumPy.
# Exit code: 0 all parts of this run passed; 1 a part failed, was stopped or not reached (later parts still run);
# 2 cannot start; 3 no CUDA backend.
set -uo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

usage() {
    echo "run_gpu.sh: $1; usage: benchmarks/run_gpu.sh [--cpu-dry-run] [--only PART,...] [--seconds N] [OUTPUT]" >&2
    exit 2
}

dry=
only=
seconds=560
out=
while [ $# -gt 0 ]; do
    case $1 in
        --cpu-dry-run) dry=--cpu ;;
        --only | --seconds)
            if [ $# -lt 2 ]; then usage "$1 needs a value"; fi
            if [ "$1" = --only ]; then only=$2; else seconds=$2; fi
            shift ;;
        -*) usage "unknown option $1" ;;
        *) if [ -n "$out" ]; then usage "two output folders, $out and $1"; fi; out=$1 ;;
    esac
    shift
done
if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then usage "--seconds is $seconds, not a positive whole number"; fi
for name in ${only//,/ }; do
    if ! [[ $name =~ ^(checks|conformance|benchmarks)(-(cupy|torch-cuda|torch|numpy))?$ ||
        $name =~ ^(sanitizer|tests|train|jax)$ ]]; then
        usage "no part is called $name; there are checks, conformance, benchmarks, sanitizer, tests, train, jax"
    fi
done
out=${out:-${OUT:-$PWD/gpu-evidence}}
python=${PYTHON:-python3}
# What is named from the caller's folder is meant there.
if [[ $out != /* ]]; then out=$caller/$out; fi
if [[ $python == */* && $python != /* ]]; then python=$caller/$python; fi
deadline=$((SECONDS + seconds))

export PYTHONPATH="$PWD/src:$PWD/conformance:$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
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

# What the parts write for the record, and compilers' and libraries' caches, which would otherwise go to the home folder
# and the repository.
scratch=$out/scratch
trap 'rm -rf "$scratch"' EXIT
export TMPDIR=$scratch XDG_CACHE_HOME=$scratch CROSSENT_CACHE_DIR=$scratch/crossent CUDA_CACHE_PATH=$scratch/cuda CUPY_CACHE_DIR=$scratch/cupy \
    TRITON_CACHE_DIR=$scratch/triton TORCHINDUCTOR_CACHE_DIR=$scratch/inductor NUMBA_CACHE_DIR=$scratch/numba \
    MPLCONFIGDIR=$scratch/matplotlib HYPOTHESIS_STORAGE_DIRECTORY=$scratch/hypothesis
# JAX would take three quarters of the memory that the other libraries need.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
# Where CUDA's installer puts its programs without naming the place.
if ! command -v compute-sanitizer >/dev/null && [ -x /usr/local/cuda/bin/compute-sanitizer ]; then
    PATH=$PATH:/usr/local/cuda/bin
fi

record=$out/evidence.json
log=$out/run.log
# No engine of the CPU is what a dry run is about: Numba's would be compiled anew, and threads would only meet each other.
if [ -n "$dry" ]; then export CROSSENT_ENGINE=array_api OMP_NUM_THREADS=1; fi
if [ -z "$only" ]; then rm -f "$record" "$log"; fi
touch "$log"

if ! found=$("$python" -m benchmarks.evidence backends $dry 2>>"$log"); then
    echo "run_gpu.sh: looking for CUDA backends failed: $(tail -n 1 "$log")" >&2
    exit 2
fi
mapfile -t backends < <(printf '%s' "$found" | sed '/^$/d')
if [ ${#backends[@]} -eq 0 ]; then
    echo "run_gpu.sh: no CUDA backend here: neither CuPy nor torch nor JAX sees a GPU" >&2
    exit 3
fi

commit=${CROSSENT_COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}
if [ -z "${CROSSENT_COMMIT-}" ] && [ "$commit" != unknown ] && [ -n "$(git --no-optional-locks status --porcelain 2>/dev/null)" ]; then
    commit+=-dirty
fi
if ! "$python" -m benchmarks.evidence begin "$record" --commit "$commit" $dry "${backends[@]}"; then
    echo "run_gpu.sh: cannot begin the record $record" >&2
    exit 2
fi
echo "backends: ${backends[*]}; writing to $out"

# The parts would each compile one program after another, and start anew in every process.
if [ -z "$dry" ]; then
    timeout 120 "$python" -m benchmarks.gpu_compile 2>&1 | tee -a "$log" || echo "   the parts compile for themselves"
fi

# The backends whose arrays the checks, the suite and the benchmark are about; JAX compiles the loss itself.
measured=()
jax=
for backend in "${backends[@]}"; do
    if [ "$backend" = jax ]; then jax=jax; else measured+=("$backend"); fi
done

# asked GROUP [BACKEND]: whether --only leaves it in.
asked() {
    if [ -z "$only" ]; then return 0; fi
    case ",$only," in
        *",$1,"* | *",$1${2:+-$2},"*) return 0 ;;
    esac
    return 1
}

# part NAME RESULT LIMIT COMMAND...: run it, log it, record it. An interrupt first, so that pytest still writes its report.
part() {
    local name=$1 result=$scratch/$2 limit=$3 status began
    shift 3
    local left=$((deadline - SECONDS))
    if [ "$left" -lt "$limit" ]; then limit=$left; fi
    rm -f "$result"
    began=$SECONDS
    if [ "$limit" -lt 1 ]; then
        limit=0
        status=124
    else
        echo "== $name (at most $limit s): $*" | tee -a "$log"
        timeout --signal=INT --kill-after=10 "$limit" "$@" >>"$log" 2>&1
        status=$?
    fi
    # Killed past its limit, because it did not heed the interrupt; killed before, something else did it.
    if [ "$status" -eq 137 ] && [ $((SECONDS - began)) -ge "$limit" ]; then status=124; fi
    if ! "$python" -m benchmarks.evidence part "$record" "$name" --result "$result" --status "$status" \
        --seconds $((SECONDS - began)) --limit "$limit" --command-line "$(printf '%q ' "$@")"; then
        echo "   $name failed; see $log"
        failed=1
    fi
}
failed=0

checks() {
    local -a sizes=(--seconds 180)
    if [ -n "$dry" ]; then sizes+=(--small); fi
    part "checks-$1" checks.json 200 "$python" -m benchmarks.gpu_checks "$scratch/checks.json" --backend "$1" "${sizes[@]}"
}

# suite NAME LIMIT ARGUMENT...: pytest. What warns of a later version is not this machine's to decide; every other warning
# stays an error.
suite() {
    local name=$1 limit=$2
    shift 2
    part "$name" tests.xml "$limit" "$python" -m pytest "$@" -q -p no:cacheprovider -p no:benchmark \
        -W default::DeprecationWarning -W default::PendingDeprecationWarning -W default::FutureWarning \
        --junitxml "$scratch/tests.xml"
}

# Most of the suite's time is the oracle's, on the CPU.
workers=()
if [ -z "$dry" ] && "$python" -c "import xdist" 2>/dev/null; then
    cores=$(nproc)
    workers=(-n "$((cores < 16 ? (cores + 1) / 2 : 8))")
fi

required=tests/test_select.py::test_every_engine_that_is_required_is_here

# conformance BACKEND ENGINES LIMIT: every mode, so every engine; the fast one has to serve, or its absence would pass.
conformance() {
    local backend=$1 engines=$2 limit=$3
    local -a narrowed=()
    if [ -n "$dry" ]; then narrowed=(-k "every_engine_that_is_required or (test_R1 and $backend-float32)"); fi
    CROSSENT_REQUIRE_BACKENDS=$backend CROSSENT_REQUIRE_ENGINES=$engines suite "conformance-$backend" "$limit" \
        "$required" conformance --backend "$backend" "${workers[@]}" "${narrowed[@]}"
}

fast=cuda,array_api
if [ -n "$dry" ]; then fast=array_api; fi
for backend in "${measured[@]}"; do
    if asked checks "$backend"; then checks "$backend"; fi
    if asked conformance "$backend"; then conformance "$backend" "$fast" 160; fi
done

for backend in "${measured[@]}"; do
    if asked benchmarks "$backend"; then
        # torch has compiled contenders too.
        limit=160
        if [ "$backend" = torch-cuda ]; then limit=360; fi
        sizes=(--seconds $((limit - 20)))
        if [ -n "$dry" ]; then sizes+=(--vocabularies 64 300 --logits-bytes 40000 --sizes 20000 80000); fi
        part "benchmarks-$backend" benchmarks.json "$limit" "$python" -m benchmarks.gpu "$scratch/benchmarks.json" \
            --backend "$backend" "${sizes[@]}"
    fi
done

chosen=()
for backend in "${measured[@]}"; do chosen+=(--backend "$backend"); done

if asked sanitizer && [ ${#measured[@]} -gt 0 ]; then
    sizes=(--seconds 280)
    if [ -n "$dry" ]; then sizes+=(--small); fi
    part sanitizer sanitizer.json 300 "$python" -m benchmarks.gpu_sanitizer "$scratch/sanitizer.json" "${chosen[@]}" "${sizes[@]}"
fi

# What tests/ has for a CUDA device is skipped everywhere else.
if asked tests && [ ${#measured[@]} -gt 0 ]; then
    shopt -s nullglob
    files=("$required" tests/test_*cuda*.py)
    shopt -u nullglob
    if [ -n "$dry" ]; then files=("$required"); fi
    CROSSENT_REQUIRE_BACKENDS=$(IFS=,; echo "${measured[*]}") CROSSENT_REQUIRE_ENGINES=$fast suite tests 90 "${files[@]}" "${workers[@]}"
fi

if asked train; then
    trained=(--backend numpy)
    for backend in "${measured[@]}"; do
        if [ "$backend" != numpy ]; then trained+=(--backend "$backend"); fi
    done
    if [ -n "$dry" ]; then trained+=(--steps 2 --vocabulary 300); fi
    part train train.json 120 "$python" -m crossent train \
        "${trained[@]}" --picture "$out/loss.png" --json "$scratch/train.json"
fi

# Last, because compiling every cell of the matrix takes longest.
if [ -n "$jax" ] && asked jax; then conformance jax array_api 400; fi

echo
"$python" -m benchmarks.evidence table "$record"
exit "$failed"
