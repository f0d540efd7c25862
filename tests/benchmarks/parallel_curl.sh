#!/usr/bin/env bash
# The same work with GNU parallel (https://www.gnu.org/software/parallel/) and curl: create, wait as long as a task
# takes, ask once, fetch. Both are looked for on the PATH (apt install parallel curl).
#
#   bash parallel_curl.sh BASE_URL PROMPTS FOLDER SLOTS LATENCY
set -euo pipefail
export URL="$1/v1/images/generations" FOLDER="$3" LATENCY="$5"
mkdir -p "$FOLDER/images"

one_job() {
    local body task link
    body="{\"model_name\": \"kling-v1\", \"prompt\": \"$2\", \"n\": 1, \"external_task_id\": \"parallel-$1\"}"
    task=$(curl -s -H "Authorization: Bearer any" -H "Content-Type: application/json" -d "$body" "$URL" |
        grep -o '"task_id":"[^"]*"' | cut -d'"' -f4)
    sleep "$LATENCY"
    link=$(curl -s -H "Authorization: Bearer any" "$URL/$task" | grep -o '"url":"[^"]*"' | cut -d'"' -f4)
    curl -s -o "$FOLDER/images/$1.png" "$link"
}
export -f one_job
parallel --will-cite --jobs "$4" one_job '{#}' '{}' :::: "$2"
