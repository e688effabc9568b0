#!/usr/bin/env bash
# The pictures' models in ten minutes of one GPU: a TexTok, then the text-to-image DiT on its tokens; int8, below 16 MiB each.
#
#   python experiments/pictures/pack.py --pictures SHARDS --emoji SHARDS --out pictures64.tar.gz --quality 90 --limit 64
#   bash experiments/pictures/gpu.sh pictures64.tar.gz OUT [MINUTES of the tokenizer] [MINUTES of the generator]
#
# OUT gets both models, their logs and previews. INIT=emoji-textok begins with weights that there are. On a CPU
# the same runs to its end with fractions of a minute: gpu.sh pictures64.tar.gz OUT 0.2 0.2
set -euo pipefail
data=$1 out=$2 tokenizer=${3:-4} generator=${4:-5}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python}
fast=(run.compile=false run.batch_size=64)
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    fast=(run.compile=true run.precision=bfloat16 run.batch_size=256)
fi

# $1: tokenizer or dit; $2: its config; $3: minutes; $4: the model's name; then further overrides
train() {
    "$python" -m textok train "$1" "$here/configs/$2.toml" --data "$data" --minutes "$3" --out "$work/$4" \
        "${fast[@]}" run.eval_every=200 run.log_every=20 "${@:5}"
    "$python" -m textok export "$work/$4" "$out/$4" --storage int8
    cp "$work/$4/log.csv" "$work/$4/training.json" "$out/$4/"
    cp "$(ls "$work/$4"/pictures/*.png | tail -1)" "$out/$4/last.png"
}

mkdir -p "$out"
train tokenizer textok "$tokenizer" textok ${INIT:+--init "$INIT"}
train dit t2i "$generator" t2i "latents.tokenizer=$work/textok"
cat > "$out/model_index.json" <<< '{"_class_name": "Pipeline", "textok": "textok", "dit": "t2i"}'
find "$out" -type f -size +16M -exec echo "above 16 MiB: {}" \; | (! grep .)
du -sh "$out"
