#!/bin/sh
# Keys and signed permissions for every node of nac_ros, for SROS 2.
#   config/security/generate.sh KEYSTORE [ROBOT]
# ROBOT is a name in config/robots or the path of a robot's YAML; default vx300s. Needs a sourced ROS 2
# with sros2. Run it again if a robot's topics change: keys are kept, permissions are created again.
set -eu
keystore=${1:?"usage: generate.sh KEYSTORE [ROBOT], for example ~/nac_ros_keys"}
robot=${2:-vx300s}
here=$(cd "$(dirname "$0")/../.." && pwd)
policy=$(mktemp)
trap 'rm -f "$policy"' EXIT

command -v ros2 >/dev/null || { echo "ros2 is not found: source your ROS 2 first" >&2; exit 2; }
ros2 security --help >/dev/null 2>&1 ||
    { echo "ros2 has no command 'security': install ros-<distribution>-sros2" >&2; exit 2; }
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" python3 -m nac_ros.ros.security_policy "$robot" >"$policy"
[ -d "$keystore/enclaves" ] || ros2 security create_keystore "$keystore"
for enclave in $(sed -n 's/.*enclave path="\([^"]*\)".*/\1/p' "$policy"); do
    [ -d "$keystore/enclaves$enclave" ] || ros2 security create_enclave "$keystore" "$enclave"
    ros2 security create_permission "$keystore" "$enclave" "$policy"
done
cat <<END
Done. On every machine of the robot, with a copy of the keystore that only its user can read:
  export ROS_SECURITY_KEYSTORE=$keystore ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce
Launch files start the nodes of nac_ros in their enclaves. Start the drivers of the arm and the cameras with
--ros-args --enclave /nac_ros/driver, and set in your own shell
export ROS_SECURITY_ENCLAVE_OVERRIDE=/nac_ros/operator
END
