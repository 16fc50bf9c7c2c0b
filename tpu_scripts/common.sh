# shellcheck shell=bash disable=SC2034 # what it sets is read where it is read in
# What the scripts beside this file share. Keeps to what bash 3.2 can do, which Macs have.

# Settings that are missing and commands that cannot be are the user's to mend: one sentence, exit code 2, as in flaxdistill.
fail() {
  echo "${0##*/}: $*" >&2
  exit 2
}

say() { echo "${0##*/}: $*" >&2; }

need() { # NAME WHAT
  [[ -n ${!1:-} ]] || fail "$1 is not set: $2; export $1=... and run the command again"
}

# Words as one line that a shell reads back as the same words.
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

# A dry run prints its commands, and they alone, where a shell may read them; a real one tells of each as it goes.
exec 3>&1
show() {
  if [[ -n ${DRY_RUN:-} ]]; then printf '%s\n' "$1" >&3; else printf '+ %s\n' "$1" >&2; fi
}

run() {
  show "$(quoted "$@")"
  [[ -n ${DRY_RUN:-} ]] || "$@"
}

feed() { # TEXT COMMAND...: the text is its standard input
  local text=$1
  shift
  show "$(quoted "$@") <<'EOF'"$'\n'"$text"$'\n'EOF
  [[ -n ${DRY_RUN:-} ]] || "$@" <<<"$text"
}

ask() { # ANSWER COMMAND...: what the command prints, or its error; in a dry run the answer that it is taken to give
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

# Read the command line of a script into `verb` and `command`, what follows it.
begin() { # "VERBS" TOOLS -- ARGUMENTS...
  local verbs=$1 tools=$2
  shift 3
  verb=
  while (($#)); do
    case $1 in
      -h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
      --dry-run) DRY_RUN=1 ;;
      -*) fail "there is no flag $1 here; --help tells more" ;;
      *)
        [[ -z $verb ]] || break
        verb=$1
        ;;
    esac
    shift
  done
  command=("$@")
  [[ " $verbs " == *" ${verb:- } "* ]] || fail "give one of: $verbs; --help tells more"
  local tool
  for tool in $tools; do
    [[ -n ${DRY_RUN:-} ]] || command -v "$tool" >/dev/null || fail "$tool is not installed, or not on PATH; install it first"
  done
  case $verb in
    launch | resume | watch) ;;
    *) ((!$#)) || fail "$verb takes nothing more, and was given: $*" ;;
  esac
}

# Refuse a command line of flaxdistill that cannot go well here, and find the file that its config may be.
settle() {
  ((${#command[@]} > 1)) || fail "say what flaxdistill is to do: $verb distill CONFIG --workdir gs://BUCKET/RUN [flags]"
  local i workdir=
  for ((i = 0; i < ${#command[@]}; i++)); do
    case ${command[i]} in
      --workdir) workdir=${command[i + 1]:-} ;;
      --workdir=*) workdir=${command[i]#*=} ;;
    esac
  done
  case $workdir in
    gs://?* | /?*) ;;
    *) fail "--workdir is '$workdir', which each worker would have for itself and lose with its chips; give gs://BUCKET/RUN, or a disk that all of them mount, by its whole path" ;;
  esac
  config=
  case ${command[1]} in
    *.py | */*)
      [[ -f ${command[1]} ]] || fail "there is no file ${command[1]} to copy; give a config's path, or the name of one that comes with flaxdistill"
      config=${command[1]}
      ;;
  esac
}

shape() { # of TOPOLOGY: how many hosts of 4 chips it has
  need TOPOLOGY "the shape of a slice in chips, such as 4x4"
  [[ $TOPOLOGY =~ ^[0-9]+x[0-9]+(x[0-9]+)?$ ]] || fail "TOPOLOGY is $TOPOLOGY; write it as 4x4 or 2x2x4"
  hosts=$((${TOPOLOGY//x/*} / 4))
  ((hosts * 4 == ${TOPOLOGY//x/*})) || fail "TOPOLOGY $TOPOLOGY has $((${TOPOLOGY//x/*})) chips; hosts have 4 of them each"
}
