# Sourced by the scripts whose options reach a judge: what stands on a command line is in everybody's process list, and
# while bash waits for what it has started, its own stays there for hours.
for word in "$@"; do
  case "$word" in --api_key | --api_key=*)
    echo "error: --api_key: not here, where it would stand in the process list; set OPENAI_API_KEY, or give --api_key_file FILE" >&2
    exit 2 ;;
  esac
done
