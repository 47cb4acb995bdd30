#!/usr/bin/env bash
# Runs a sweep on Kubernetes: an Indexed Job, one pod for each share of the sweep.
#
#   IMAGE=... CLAIM=... launch/kubernetes.sh [--dry-run] CONFIG DIR [options of jaxsearch sweep]
#
# IMAGE     a container image with the jaxsearch command (required)
# CLAIM     a PersistentVolumeClaim that all pods may write (ReadWriteMany), mounted at /data (required)
# NAME      the Job's name (default: jaxsearch)
# WORKERS   how many pods (default: 1)
# GPUS      GPUs for each pod (default: 1; 0 for none)
#
# CONFIG and DIR are paths in the pod, DIR below /data. The namespace is kubectl's own. --dry-run writes the
# manifest to the standard output. It needs Kubernetes 1.29 or newer.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$(dirname "$0")/common.sh"

check_sweep "$@"
NAME=${NAME:-jaxsearch} WORKERS=${WORKERS:-1} GPUS=${GPUS:-1}
name='^[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?$'
[[ ${IMAGE:-} =~ ^[A-Za-z0-9][A-Za-z0-9._/:@-]*$ ]] ||
  fail "IMAGE is '${IMAGE:-}': give a container image, as in IMAGE=registry.example/jaxsearch:1"
[[ ${CLAIM:-} =~ $name ]] || fail "CLAIM is '${CLAIM:-}': give the name of a PersistentVolumeClaim"
[[ $NAME =~ $name ]] || fail "NAME is '$NAME': take up to 52 lower-case letters, digits and hyphens"
check_number WORKERS 1
check_number GPUS 0
[[ $1 == /* ]] || fail "CONFIG is '$1': give its whole path in the pod, as in /data/sweep.yaml"
[[ $2 == /data/?* ]] || fail "DIR is '$2': give a folder below /data, where CLAIM is mounted"

quoted() { # as strings of YAML, one a line
  printf "            - '%s'\n" "${@//\'/\'\'}"
}

manifest() {
  cat <<YAML
apiVersion: batch/v1
kind: Job
metadata:
  name: $NAME
spec:
  completionMode: Indexed
  completions: $WORKERS
  parallelism: $WORKERS
  backoffLimitPerIndex: 3
  podFailurePolicy:
    rules:
      # Pre-empted, drained or evicted: start again, however often.
      - action: Ignore
        onPodConditions:
          - type: DisruptionTarget
            status: 'True'
      - action: Ignore
        onExitCodes:
          operator: In
          values: [143]
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 120
      containers:
        - name: jaxsearch
          image: $IMAGE
          command:
$(quoted jaxsearch sweep "$1" --output "$2" "${@:3}")
            - --process
            - \$(JOB_COMPLETION_INDEX)
            - --processes
            - '$WORKERS'
YAML
  [ "$GPUS" -eq 0 ] || cat <<YAML
          resources:
            limits:
              nvidia.com/gpu: $GPUS
YAML
  cat <<YAML
          volumeMounts:
            - name: data
              mountPath: /data
      volumes:
        - name: data
          persistentVolumeClaim:
            claimName: $CLAIM
YAML
}

manifest=$(manifest "$@")
[ -z "$dry" ] || echo "$manifest"
run kubectl apply --filename - <<<"$manifest"
