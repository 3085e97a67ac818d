#!/bin/sh
# What `make demo` does once ciyuan is installed: train, score on pairs never seen, say what to try next.
# A run that was interrupted goes on; one that is finished is shown again. AGAIN=1 keeps it aside and trains anew.
set -eu
cd "$(dirname "$0")/.."
ciyuan=${CIYUAN:-.venv/bin/ciyuan}
out=${OUT:-runs/demo}

if [ -n "${AGAIN:-}" ] && [ -e "$out" ]; then
  n=1
  while [ -e "$out-$n" ]; do n=$((n + 1)); done
  mv "$out" "$out-$n"
  echo "the earlier run is now $out-$n" >&2
fi

if [ ! -e "$out" ]; then
  "$ciyuan" train examples/demo.yaml --out "$out" >/dev/null # progress is on stderr; scores and advice follow below
elif [ ! -e "$out/report.html" ]; then # the report is written last
  echo "$out was interrupted: going on from its last checkpoint (or start anew: make demo AGAIN=1)" >&2
  "$ciyuan" train examples/demo.yaml --out "$out" --resume >/dev/null
else
  echo "$out is trained already: here is what it does (train anew: make demo AGAIN=1)" >&2
fi

"$ciyuan" evaluate "$out" --data examples/data/help.en-zh.dev.tsv --samples 10

cat <<END

Report, with curves, samples and an attention map: $out/report.html

Try next:
  printf 'Opens the Help menu.\nClick OK.\n' | $ciyuan translate $out
  $ciyuan train translate --data yours.tsv --set data.source=en --set data.target=zh --minutes 20 --out runs/yours
END
