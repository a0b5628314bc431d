#!/bin/sh
# Runs what is in `jobs`, a program and its options on each line, and adds a line to `results` for each: its number, the
# program, the exit status, and what it printed. Killed and started again, it goes on where it stopped.
#
# usage: sh measure.sh [KNOWN [PROGRAM...]]
# It prints the lines of `results` behind number KNOWN, and runs none of the programs that are named.

refuse() {
  echo "measure.sh: $1" >&2
  exit 2
}

cd "$(dirname "$0")" || exit 2
known=${1:-0}
[ $# -gt 0 ] && shift
broken=" $* "

# One at a time, also of another folder beside this one: an earlier one whose user has gone would use the same cores.
running=../netlathe.pid
touch "$running" 2>/dev/null || running=pid
other=$(cat "$running" 2>/dev/null)
if [ -n "$other" ] && [ "$other" != $$ ] && grep -q measure.sh "/proc/$other/cmdline" 2>/dev/null; then
  # First it, so that it starts no other.
  programs=$(pgrep -P "$other" 2>/dev/null)
  kill -9 "$other" $programs 2>/dev/null
fi
echo $$ >"$running"

command -v sha256sum >/dev/null || refuse "this machine has no sha256sum, and nothing can be checked"
whole=$(sha256sum -c files.sha256 2>/dev/null)
for file in measure.sh settings jobs; do
  case $whole in *"$file: OK"*) ;; *) refuse "$file is damaged; is the disk full? Copy the folder again" ;; esac
done
chmod +x programs/* 2>/dev/null

# threads: how many cores a program uses. hottest: milli-degrees above which to wait; patience: seconds to wait in all.
threads=1 hottest=70000 patience=600
# loader: the program that runs plugins; ends: the numbers of turns after which its process ends.
loader='' ends=''
. ./settings
# For tests: what runs the programs where they are another machine's, and what stands for /sys.
launcher=${NETLATHE_LAUNCHER:-}
sys=${NETLATHE_SYS:-/sys}

touch results
process=''
# Whoever carries the results away can tell that they are whole.
leave() {
  # It does not hear what ends this script.
  [ -z "$process" ] || kill -9 "$process" 2>/dev/null
  sha256sum machine results >sealed.new 2>/dev/null && mv sealed.new sealed
  rm -f "$running"
}
trap leave EXIT
trap 'exit 130' HUP INT TERM

# What tells this machine from another.
{
  uname -m
  getprop ro.product.model
  getprop ro.serialno
  tr '\0' '\n' </proc/device-tree/model
  tr '\0' '\n' </proc/device-tree/serial-number
  cat /etc/machine-id
} >machine 2>/dev/null

# Of the first 31 CPUs.
allowed=$(sed -n 's/^Cpus_allowed:[^0-9a-f]*//p' /proc/self/status)
allowed=$((0x${allowed##*,}))

# "speed number" of the CPUs to measure on: of each core one, the fastest cores, and of equal ones the last, since the
# first serve interrupts.
fastest() {
  for cpu in "$sys"/devices/system/cpu/cpu[0-9]*; do
    number=${cpu##*cpu}
    [ "$number" -lt 31 ] && [ $((allowed >> number & 1)) = 1 ] || continue
    [ "$(cat "$cpu/online" 2>/dev/null)" = 0 ] && continue
    sibling=$(sed 's/[^0-9].*//' "$cpu/topology/thread_siblings_list" 2>/dev/null)
    [ -n "$sibling" ] && [ "$sibling" != "$number" ] && [ $((allowed >> sibling & 1)) = 1 ] && continue
    speed=$(cat "$cpu/cpu_capacity" 2>/dev/null || cat "$cpu/cpufreq/cpuinfo_max_freq" 2>/dev/null || echo 0)
    echo "$speed $number"
  done | sort -k1,1nr -k2,2nr | head -n "$threads"
}

mask=0 count=0
cpus=$(fastest | cut -d' ' -f2)
for cpu in $cpus; do mask=$((mask | 1 << cpu)) count=$((count + 1)); done
[ "$count" = "$threads" ] || refuse "there are $count cores to measure on, and $threads threads were asked for"
mask=$(printf %x "$mask")

zones=
for zone in "$sys"/class/thermal/thermal_zone*; do
  case $(cat "$zone/type" 2>/dev/null) in
    *[Cc][Pp][Uu]* | *soc* | *SOC* | *BIG* | *MID* | *LITTLE* | *pkg*) zones="$zones $zone/temp" ;;
  esac
done

# The sum of the clocks that the CPUs are allowed.
clocks() {
  sum=0
  for cpu in $cpus; do
    clock=$(cat "$sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_max_freq" 2>/dev/null)
    sum=$((sum + ${clock:-0}))
  done
}

# Too warm, or held below the highest clocks that were seen.
full=0
hot() {
  clocks
  [ "$sum" -gt "$full" ] && full=$sum
  [ "$sum" -lt "$full" ] && return 0
  for zone in $zones; do
    warmth=$(cat "$zone" 2>/dev/null)
    [ "${warmth:-0}" -ge "$hottest" ] && return 0
  done
  return 1
}

locked="nothing in $PWD can be executed; copy the folder to a disk where that is allowed"
torn='its program did not arrive whole; is the disk of the machine full?'
arrived() {
  case $whole in *"programs/$1: OK"*) ;; *) return 1 ;; esac
}

# What a program prints, and its status; in a process of its own, which becomes the program.
run() {
  arrived "$1" || { echo "$torn" && exit 1; }
  program=$1
  shift
  exec $launcher "./programs/$program" "$@" "--cpu_mask=$mask" </dev/null
}

# The same of a plugin, in the process of those before it: sets `said` and `status`.
load() {
  said=$torn status=1
  arrived "$1" || return 0
  [ -n "$process" ] || begin
  said='' status=''
  # One that has ended by itself is told of below.
  (trap '' PIPE && printf '%s\n' "./programs/$* --cpu_mask=$mask" >&3) 2>/dev/null
  while [ -z "$status" ] && read -r line <&4; do
    case $line in "status "*) status=${line#status } ;; ?*) said=$line ;; esac
  done
  # A last line that nothing ended.
  [ -n "$status" ] || said=${line:-$said}
  # What fails may leave the GPU of its process useless.
  if [ "$status" != 0 ]; then end; fi
}

begin() {
  arrived "$loader" || refuse "what runs the programs did not arrive whole; is the disk full? Copy the folder again"
  pipes=$(mktemp -d) && mkfifo "$pipes/ask" "$pipes/answer" || refuse "there is no place for temporary files"
  $launcher "./programs/$loader" <"$pipes/ask" >"$pipes/answer" 2>&1 &
  process=$!
  exec 3>"$pipes/ask" 4<"$pipes/answer"
  rm -r "$pipes"
  said=''
  while read -r line <&4; do
    [ "$line" = ready ] && return
    said=$line
  done
  status=''
  end
  [ "$status" = 126 ] && refuse "$locked"
  refuse "what runs the programs ended before the first of them with exit code $status ${said:+($said)}; does its driver answer?"
}

end() {
  [ -n "$process" ] || return 0
  exec 3>&- 4<&-
  wait "$process"
  died=$? process=''
  [ -n "$status" ] || status=$died
}

# A kill or a full disk may have cut the last line.
if [ -n "$(tail -c 1 results)" ]; then sed '$d' results >cut && mv cut results; fi
finished=$known
while read -r number program status said; do
  [ "$number" -gt "$finished" ] && finished=$number
  [ "$number" -gt "$known" ] && printf '%s\n' "$number $program $status $said"
  [ "$status" = 0 ] || broken="$broken$program "
done <results

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
      if [ -n "$loader" ]; then
        load "$program" $options
      else
        said=$(run "$program" $options 2>&1)
        status=$?
      fi
      [ "$status" = 126 ] && refuse "$locked"
      line="$number $program $status $(printf %s "$said" | tail -n 1)"
      [ "$status" = 0 ] || broken="$broken$program "
      ;;
  esac
  printf '%s\n' "$line" >>results || refuse "results cannot be written; is the disk full?"
  printf '%s\n' "$line"
  case $ends in *" $number "*) end ;; esac
  # A folder that nothing touches is removed after a day.
  touch .
done <jobs
end
