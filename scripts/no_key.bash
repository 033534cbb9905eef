# Sourced by the scripts whose options reach a judge. Every user sees command lines in the process list. Bash's own
# stays there for hours, while it waits for the command that it has started.
for word in "$@"; do
  case "$word" in --api_key | --api_key=*)
    echo "error: --api_key: not here, where it would stand in the process list; set OPENAI_API_KEY, or give --api_key_file FILE" >&2
    exit 2 ;;
  esac
done
