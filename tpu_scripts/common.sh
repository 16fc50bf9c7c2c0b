# shellcheck shell=bash disable=SC2034 # what it sets is read where it is read in
# Functions that the scripts in this folder share. They run on bash 3.2, which macOS has.

# A mistake of the user is one sentence and exit code 2, as in flaxdistill.
fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

log() { echo "${0##*/}: $*" >&2; }

need() { # NAME WHAT
  [[ -n ${!1:-} ]] || fail "$1 is not set: $2; run export $1=... and repeat the command"
}

# Quote arguments as one line of shell.
quoted() {
  local word line="" quote="'\\''"
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word=${word//\'/$quote}
      word="'$word'"
    fi
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# A dry run prints only its commands, for a shell; a real run prints each command before running it.
exec 3>&1
show() {
  if [[ -n ${DRY_RUN:-} ]]; then printf '%s\n' "$1" >&3; else printf '+ %s\n' "$1" >&2; fi
}

run() {
  show "$(quoted "$@")"
  [[ -n ${DRY_RUN:-} ]] || "$@"
}

feed() { # TEXT COMMAND...: run a command with the text as its standard input
  local text=$1
  shift
  show "$(quoted "$@") <<'EOF'"$'\n'"$text"$'\n'EOF
  [[ -n ${DRY_RUN:-} ]] || "$@" <<<"$text"
}

ask() { # ANSWER COMMAND...: print the output or the error of a command; in a dry run print ANSWER
  local answer=$1 errors
  shift
  if [[ -n ${DRY_RUN:-} ]]; then
    show "$(quoted "$@")"
    echo "$answer"
  else
    errors=$(mktemp)
    "$@" 2>"$errors" || cat "$errors"
    rm -f "$errors"
  fi
}

pause() { [[ -n ${DRY_RUN:-} ]] || sleep "${POLL:-60}"; }

# Read the command line of a script into `action` and `command`, what follows it.
begin() { # "ACTIONS" TOOLS -- ARGUMENTS...
  local actions=$1 tools=$2
  shift 3
  action=
  while (($#)); do
    case $1 in
      -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
      --dry-run) DRY_RUN=1 ;;
      -*) fail "unknown flag $1; see --help" ;;
      *)
        [[ -z $action ]] || break
        action=$1
        ;;
    esac
    shift
  done
  command=("$@")
  [[ " $actions " == *" ${action:- } "* ]] || fail "give one of: $actions; see --help"
  local tool
  for tool in $tools; do
    [[ -n ${DRY_RUN:-} ]] || command -v "$tool" >/dev/null || fail "$tool is not installed or not on PATH; install it first"
  done
  case $action in
    launch | resume | watch) ;;
    *) ((!$#)) || fail "$action takes no arguments; remove: $*" ;;
  esac
}

# Refuse a flaxdistill command line that would fail here, and find the file of its config.
settle() {
  ((${#command[@]} > 1)) || fail "give the flaxdistill command to run: $action distill CONFIG --workdir gs://BUCKET/RUN [flags]"
  local i workdir=
  for ((i = 0; i < ${#command[@]}; i++)); do
    case ${command[i]} in
      --workdir) workdir=${command[i + 1]:-} ;;
      --workdir=*) workdir=${command[i]#*=} ;;
    esac
  done
  case $workdir in
    gs://?* | /?*) ;;
    *) fail "--workdir is '$workdir', which is local to each worker and lost with it; give gs://BUCKET/RUN, or the absolute path of a disk that all workers mount" ;;
  esac
  config=
  case ${command[1]} in
    *.py | */*)
      [[ -f ${command[1]} ]] || fail "there is no file ${command[1]}; give the path of a config, or the name of a packaged one"
      config=${command[1]}
      ;;
  esac
}

shape() { # set hosts to the number of hosts of TOPOLOGY, with 4 chips each
  need TOPOLOGY "the shape of a slice in chips, such as 4x4"
  [[ $TOPOLOGY =~ ^[0-9]+x[0-9]+(x[0-9]+)?$ ]] || fail "TOPOLOGY is $TOPOLOGY; write it as 4x4 or 2x2x4"
  hosts=$((${TOPOLOGY//x/*} / 4))
  ((hosts * 4 == ${TOPOLOGY//x/*})) || fail "TOPOLOGY $TOPOLOGY has $((${TOPOLOGY//x/*})) chips; each host has 4"
}
