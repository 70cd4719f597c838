#!/bin/bash
# Waits for the cloud's notice that this spot instance is about to be taken back, and passes it to Ray:
#   deploy/spot_notice.sh aws|gcp HEAD_IP:PORT
# The workers on this node then write a checkpoint, and Ray Train starts them again on another node.
set -uo pipefail

cloud=$1
address=$2
case $cloud in
  aws) seconds=120 ;;
  gcp) seconds=30 ;;
  *)
    echo "the cloud is '$cloud', must be aws or gcp" >&2
    exit 2
    ;;
esac

noticed() {
  local token
  if [ "$cloud" = aws ]; then
    # The address answers 404 until there is a notice. Each question needs a session token.
    token=$(curl --silent --fail --max-time 2 --request PUT \
      --header 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token) &&
      curl --silent --fail --max-time 2 --output /dev/null \
        --header "X-aws-ec2-metadata-token: $token" http://169.254.169.254/latest/meta-data/spot/instance-action
  else
    [ "$(curl --silent --fail --max-time 2 --header 'Metadata-Flavor: Google' \
      http://metadata.google.internal/computeMetadata/v1/instance/preempted)" = TRUE ]
  fi
}

until noticed; do
  sleep "${POLL_SECONDS:-2}"
done
exec ray drain-node --address "$address" --reason DRAIN_NODE_REASON_PREEMPTION \
  --reason-message "spot notice of $cloud" --deadline-remaining-seconds "$seconds"
