#!/bin/bash
# Measure this library on a GPU that is at hand for a quarter of an hour: 14 minutes at most, in two commands.
#
#     bash benchmarks/gpu.sh OUT DATASET check time       # 6.9 minutes at most
#     bash benchmarks/gpu.sh OUT DATASET train            # 6.7 minutes at most
#     bash benchmarks/gpu.sh OUT DATASET --dry_run        # all of it, tiny, also on a CPU
#
# check   one training step in float32 and bfloat16: the GPU's against the CPU's, and JAX's against torch's
# time    ViT-B/16 at 224 px in bfloat16: SplitMask by itself, with the memory it takes; then in turns with the compiled
#         torch step, BEiT and MAE, and the fraction of each part of a step; and the step of vit_tiny that `train` uses
# train   vit_tiny with patches of 4 px on DATASET: from scratch, SplitMask and MAE in equal time
#
# DATASET is labelled images, CIFAR-10 for docs/speed.md, named as --dataset of the recipes. npz:FILE starts sooner than
# folder:PATH with its many files.
# OUT/gpu.json gets each result as soon as it is there, or the reason why there is none. OUT/gpu.log has all that was
# printed. The runs of `train` go to OUT.runs, and a second call resumes them.
#
#     --backends=torch,jax      what to check and time
#     --train_backend=torch     what to train on: the faster of time_small_torch and time_small_jax in gpu.json
#     --methods=...             what to train: scratch,splitmask-small,mae
#
# Needs Python with Keras, PyTorch and JAX for the GPU; $PYTHON names it. No network and no TensorFlow.
set -u

dry_run= backends=torch,jax train_backend=torch methods=scratch,splitmask-small,mae words=()
for word; do
  case $word in
    --dry_run) dry_run=yes ;;
    --backends=*) backends=${word#*=} ;;
    --train_backend=*) train_backend=${word#*=} ;;
    --methods=*) methods=${word#*=} ;;
    -*) echo "gpu.sh: Unknown flag $word; see the first lines of $0." >&2; exit 2 ;;
    *) words+=("$word") ;;
  esac
done
for name in backends train_backend methods; do
  if [[ ! ${!name} =~ ^[a-z-]+(,[a-z-]+)*$ ]]; then
    echo "gpu.sh: Expected --$name as names with commas between them, received '${!name}'; correct it." >&2
    exit 2
  fi
done
if [ ${#words[@]} -lt 2 ] || [[ ${words[0]} =~ ^/*$ || ! ${words[1]} ]]; then
  echo "gpu.sh: Expected OUT and DATASET, received ${words[*]:-neither}; see the first lines of $0." >&2
  exit 2
fi
out=${words[0]} dataset=${words[1]} stages=("${words[@]:2}")
[ ${#stages[@]} -gt 0 ] || stages=(check time train)
for stage in "${stages[@]}"; do
  case $stage in
    check | time | train) ;;
    *) echo "gpu.sh: Expected the stages check, time and train, received $stage." >&2; exit 2 ;;
  esac
done

if [ ! "$dry_run" ] && ! nvidia-smi >/dev/null 2>&1; then
  echo "gpu.sh: Expected a GPU that nvidia-smi finds; add --dry_run to try the commands without one." >&2
  exit 2
fi

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
out=${out%/} runs=${out%/}.runs
if ! mkdir -p "$out" "$runs" 2>/dev/null || [ ! -w "$out" ] || [ ! -w "$runs" ]; then
  echo "gpu.sh: Expected folders that can be written, received $out and $runs; choose another OUT." >&2
  exit 2
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$runs/compiled}  # what one process compiles, others read
exec > >(tee -a "$out/gpu.log") 2>&1

check_step=(--size=vit_micro --image_size=32 --channels=3 --patch_size=4 --vocabulary=512 --batch_size=32)
large_step=(--size=vit_base --image_size=224 --channels=3 --patch_size=16 --vocabulary=8192 --batch_size=128 --steps=10)
small_step=(--size=vit_tiny --image_size=32 --channels=3 --patch_size=4 --vocabulary=512 --batch_size=256 --steps=20)
train_run=(--size=vit_tiny --image_size=32 --patch_size=4 --batch_size=256 --time=92s)
workers=$(nproc) patience=1
if [ "$dry_run" ]; then
  check_step=(--size=vit_micro --image_size=16 --channels=3 --patch_size=4 --vocabulary=16 --batch_size=4)
  large_step=(--size=vit_micro --image_size=16 --channels=3 --patch_size=4 --vocabulary=16 --batch_size=4 --steps=1)
  small_step=("${large_step[@]}")
  train_run=(--size=vit_micro --image_size=16 --patch_size=4 --batch_size=4 --time=2s)
  workers=1 patience=10  # for slow machines
  export TORCHDYNAMO_DISABLE=1  # torch.compile would take a minute
else
  export JAX_PLATFORMS=cuda,cpu  # an error without the first, where JAX else would compute on the CPU
fi

failures=0
deadline=0  # in seconds from the start, of the stage that runs

# Run a command that writes a JSON file, within seconds and what is left of the stage, and record its result.
part() {  # NAME SECONDS FILE COMMAND...
  local name=$1 limit=$(($2 * patience)) file=$3 left=$((deadline - SECONDS)) start=$SECONDS status
  shift 3
  [ "$limit" -lt "$left" ] || limit=$left
  echo
  echo "== $name, at most $limit s: $*"
  touch "$scratch/started"
  if [ "$limit" -gt 0 ]; then
    timeout --foreground --kill-after=10 "$limit" "$@" 2>&1 | tee "$scratch/log"
    status=${PIPESTATUS[0]}
  else
    echo "There was no time left." | tee "$scratch/log"
    status=124
  fi
  [ "$status" -eq 0 ] || failures=$((failures + 1))
  [ "$scratch/started" -nt "$file" ] && file=/dev/null  # of an earlier part, or not there
  "$python" "$root/benchmarks/gpu_record.py" --output="$out/gpu.json" --part="$name" --status="$status" \
    --seconds=$((SECONDS - start)) --result="$file" --log="$scratch/log" ${dry_run:+--dry_run}
}

# Take a step on a backend and a device in the background, in full precision where it is float32.
take_step() {  # BACKEND cpu|gpu
  local settings=(NVIDIA_TF32_OVERRIDE=0 JAX_DEFAULT_MATMUL_PRECISION=highest)
  [ "$2" = gpu ] || settings+=(CUDA_VISIBLE_DEVICES= JAX_PLATFORMS=cpu)
  env "${settings[@]}" timeout --kill-after=5 $((60 * patience)) \
    "$python" "$root/benchmarks/gpu_step.py" --backend="$1" "${check_step[@]}" --output="$scratch/$1_$2.npz" \
    >"$scratch/$1_$2.log" 2>&1 &
}

compare_steps() {  # ONE OTHER, each BACKEND_DEVICE
  part "check_$1_and_$2" 10 "$scratch/check.json" "$python" "$root/benchmarks/gpu_compare.py" \
    --step="$scratch/$1.npz" --beside="$scratch/$2.npz" --json="$scratch/check.json"
}

check() {
  local backend first=
  for backend in ${backends//,/ }; do
    take_step "$backend" cpu
    take_step "$backend" gpu
  done
  wait $(jobs -p)
  cat "$scratch"/*_[cg]pu.log
  for backend in ${backends//,/ }; do
    compare_steps "${backend}_gpu" "${backend}_cpu"
    [ -z "$first" ] || compare_steps "${backend}_cpu" "${first}_cpu"
    first=${first:-$backend}
  done
}

time_step() {  # NAME SECONDS BACKEND FLAGS...
  local name=$1 limit=$2 backend=$3
  shift 3
  part "time_$name" "$limit" "$scratch/time.json" "$python" "$root/benchmarks/benchmark.py" --backend="$backend" \
    --precision=bfloat16 --repeats=3 --noeach_loss --json="$scratch/time.json" "$@"
}

time_all() {
  local backend
  for backend in ${backends//,/ }; do
    time_step "alone_$backend" 90 "$backend" "${large_step[@]}" --beside=
    time_step "small_$backend" 60 "$backend" "${small_step[@]}" --beside=
  done
  # Half of the memory for JAX, which else takes three quarters and leaves too little for torch.
  export XLA_PYTHON_CLIENT_MEM_FRACTION=0.5
  for backend in ${backends//,/ }; do
    # Each part is a step more to compile, for which JAX takes half a minute.
    local parts=()
    [ "$backend" = jax ] || parts=(--parts --dataset="$dataset")
    time_step "turns_$backend" 160 "$backend" "${large_step[@]}" --beside=torch_by_hand,beit,mae --compile "${parts[@]}"
  done
  unset XLA_PYTHON_CLIENT_MEM_FRACTION
}

train() {
  local method
  for method in ${methods//,/ }; do
    part "train_${method}_$train_backend" 400 "$runs/$train_backend/comparison.json" \
      "$python" "$root/recipes/reproduce.py" --dataset="$dataset" --methods="$method" "${train_run[@]}" \
      --backend="$train_backend" --precision=bfloat16 --workdir="$runs/$train_backend" \
      --pretrain_flags="--workers=$workers --pictures=0" --finetune_flags="--workers=$workers"
  done
}

for stage in "${stages[@]}"; do
  case $stage in
    check) deadline=$((SECONDS + 75 * patience)); check ;;
    time) deadline=$((SECONDS + 340 * patience)); time_all ;;
    train) deadline=$((SECONDS + 400 * patience)); train ;;
  esac
done
echo
echo "$out/gpu.json after $SECONDS s, parts that failed: $failures"
[ "$failures" -eq 0 ]
