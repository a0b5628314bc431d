#!/bin/sh
# Runs what is in `jobs`, a program and its options on each line, and adds a line to `results` for each: its number, the
# program, the exit status, and what it printed. Killed and started again, it goes on where it stopped.
#
# usage: sh measure.sh [KNOWN [PROGRAM...]]
# It prints all lines of `results` but the first KNOWN, and runs none of the programs that are named.

cd "$(dirname "$0")" || exit 2
known=${1:-0}
[ $# -gt 0 ] && shift
broken=" $* "

# threads: how many cores a program uses. hottest: milli-degrees above which to wait; patience: seconds to wait in all.
threads=1 hottest=70000 patience=600
. ./settings
# For tests: what runs the programs where they are another machine's, and what stands for /sys.
launcher=${NETLATHE_LAUNCHER:-}
sys=${NETLATHE_SYS:-/sys}

if [ -r pid ] && other=$(cat pid) && [ "$other" != $$ ] && grep -q measure.sh "/proc/$other/cmdline" 2>/dev/null; then
  kill -9 "$other" $(pgrep -P "$other" 2>/dev/null) 2>/dev/null
fi
echo $$ >pid

# Programs that are not whole have failed; nothing goes without the other files.
damaged=
for file in $(sha256sum -c files.sha256 2>/dev/null | sed -n 's/: FAILED.*//p'); do
  case $file in
    programs/*) damaged="$damaged ${file#programs/} " ;;
    *)
      echo "measure.sh: $file is damaged; is the disk full? Copy the folder again" >&2
      exit 2
      ;;
  esac
done

# Whoever carries the results away can tell that they are whole.
seal() { sha256sum machine results >sealed; }
trap seal EXIT
trap 'exit 130' HUP INT TERM

{
  uname -srm
  getprop ro.product.model
  getprop ro.soc.model
  tr '\0' '\n' </proc/device-tree/model
  grep -E '^(model name|Hardware|CPU part|uarch)' /proc/cpuinfo | sort -u
} >machine 2>/dev/null

# Of the first 31 CPUs.
allowed=$(sed -n 's/^Cpus_allowed:[^0-9a-f]*//p' /proc/self/status)
allowed=$((0x${allowed##*,}))

# "capacity number" of the CPUs to measure on: the fastest, and of equal ones the last, since the first serve interrupts.
fastest() {
  for cpu in "$sys"/devices/system/cpu/cpu[0-9]*; do
    number=${cpu##*cpu}
    [ "$number" -lt 31 ] && [ $((allowed >> number & 1)) = 1 ] || continue
    speed=$(cat "$cpu/cpu_capacity" 2>/dev/null || cat "$cpu/cpufreq/cpuinfo_max_freq" 2>/dev/null || echo 0)
    echo "$speed $number"
  done | sort -k1,1nr -k2,2nr | head -n "$threads"
}

cpus=$(fastest | cut -d' ' -f2)
mask=0
for cpu in $cpus; do mask=$((mask | 1 << cpu)); done
[ "$mask" = 0 ] || mask_option=--cpu_mask=$(printf %x "$mask")

clocks() { for cpu in $cpus; do cat "$sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_max_freq" 2>/dev/null; done; }
full_clocks=$(clocks)

# Too warm, or held below the clocks of the beginning.
hot() {
  [ "$(clocks)" = "$full_clocks" ] || return 0
  for zone in "$sys"/class/thermal/thermal_zone*; do
    case $(cat "$zone/type" 2>/dev/null) in
      *[Cc][Pp][Uu]* | *soc* | *SOC* | *BIG* | *MID* | *LITTLE* | *pkg*) ;;
      *) continue ;;
    esac
    warmth=$(cat "$zone/temp" 2>/dev/null) && [ "${warmth:-0}" -ge "$hottest" ] && return 0
  done
  return 1
}

touch results
# A kill or a full disk may have cut the last line.
if [ -n "$(tail -c 1 results)" ]; then sed '$d' results >whole && mv whole results; fi
tail -n "+$((known + 1))" results
last=$(tail -n 1 results | cut -d' ' -f1)
finished=$known
[ "${last:-0}" -gt "$known" ] && finished=$last
for program in $(grep -v '^[0-9]* [^ ]* 0 ' results | cut -d' ' -f2); do broken="$broken$program "; done

# What a program prints, and its status.
run() {
  case $damaged in
    *" $1 "*)
      echo "its program did not arrive whole; is the disk of the machine full?"
      return 1
      ;;
  esac
  program=$1
  shift
  $launcher "./programs/$program" "$@" $mask_option </dev/null
}

number=0
while read -r program options; do
  number=$((number + 1))
  [ "$number" -gt "$finished" ] || continue
  case $broken in
    *" $program "*) line="$number $program - skipped" ;;
    *)
      while [ "$patience" -gt 0 ] && hot; do
        sleep 1
        patience=$((patience - 1))
      done
      said=$(run "$program" $options 2>&1)
      status=$?
      line="$number $program $status $(printf %s "$said" | tail -n 1)"
      [ "$status" = 0 ] || broken="$broken$program "
      ;;
  esac
  printf '%s\n' "$line" >>results
  printf '%s\n' "$line"
done <jobs
