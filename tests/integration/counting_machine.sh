#!/bin/sh
# Stands for a machine that measures: runs a netbench under qemu, and answers seconds of a clock that counts instructions.
# A program's count is kept, since it is the same each time.
#
# usage: PLUGIN=qemu_count.so FOLDER=counts counting_machine.sh PROGRAM OPTIONS...
program=$1 said=$FOLDER/$(basename "$1")
shift
for word; do case $word in --num_runs=*) runs=${word#*=} ;; esac; done
if [ ! -e "$said" ]; then
  for calls in 0 1; do
    qemu-aarch64 -cpu cortex-a76 -plugin "$PLUGIN,out=$said.$calls" "$program" --num_runs=0 --warmup_runs=$calls \
      --json >"$said.new" || exit
  done
  mv "$said.new" "$said"
fi
count=$(($(tr -dc 0-9 <"$said.1") - $(tr -dc 0-9 <"$said.0")))
samples=$(yes "${count}e-9" | head -n "$runs" | paste -sd,)
answer=$(sed 's/.*\("max_abs_error.*"same_top1": [a-z]*\).*/\1/' "$said")
echo "{\"samples_s\": [$samples], $answer}"
